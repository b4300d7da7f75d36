"""The command line. Declares commands, options and help; the work is in `commands`, `demo` and `client`.

Imports inside the commands keep `--help` and usage errors fast: torch and gRPC take seconds to load.
A line of an example is a whole command of at most 78 characters, so that it can be copied from a terminal of 80 columns: each
line there is padded with blanks, after which no backslash would join it to the next.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from darkroom import __version__
from darkroom.cli_options import ConfigOption, JsonOption, WindowOption
from darkroom.error_report import told_as_json
from darkroom.key_cli import key_app
from darkroom.model_cli import model_app
from darkroom.option_values import engine_name, noise_level, parsed, refuse_given
from darkroom.site_cli import site_app

INTRODUCTION: Final = (
    "Denoise medical images in the dark: packed with keyed noise, split into two shares, and denoised by two servers that"
    " each hold one share and see nothing.\n\n"
    "Try it: [bold]darkroom demo[/bold]. Results go to standard output, progress and messages to standard error.\n\n"
    "Exit codes: 0 ok, 2 usage, 3 bad input, 4 configuration or certificate, 5 peer unreachable or busy, 6 access denied,"
    " 7 wrong key or integrity, 8 protocol, 130 interrupted."
)

app = typer.Typer(
    name="darkroom",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(site_app)  # without a name: provision, accept and fingerprints
app.add_typer(model_app, name="model")
app.add_typer(key_app, name="key")

DEFAULT_MODEL: Final = "base"

KeyOption = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="Noise master key (mode 0600), instead of the one in --config.")
]
PackingOption = Annotated[
    Literal["keyed", "gaussian", "blind"],
    typer.Option(
        help="keyed: uniform noise, taken off inside the window. gaussian: Gaussian noise, the same. blind: Gaussian noise"
        " that stays in while the servers work; no server ever gets a key."
    ),
]
AnonymizeOption = Annotated[
    bool,
    typer.Option(
        "--anonymize", help="Take the patient out of a DICOM result's header (PS3.15 Annex E, basic profile). Pixels stay."
    ),
]
PackingSigmaOption = Annotated[
    float | None,
    typer.Option("--packing-sigma", metavar="S", min=0.0, help="Packing noise in 1/255 of the range (gaussian, blind)."),
]
WaitOption = Annotated[
    float,
    typer.Option(
        "--wait", metavar="SECONDS", min=0.0, help="Where a server is busy, wait and ask again for so long. Default: 0."
    ),
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="E",
        help="masked, or crypten (the general one). Default: masked, where it has every layer of the model.",
    ),
]
SIGMA_HELP: Final = "Acquisition noise in 1/255 of the range, or auto (estimated)."


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback(help=INTRODUCTION)
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Also DARKROOM_DEBUG=1; allowed anywhere.")
    ] = False,  # taken out of the arguments by darkroom.__main__; here for the help
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = False,
) -> None:
    """Options of all commands."""


@app.command()
def demo(
    image: Annotated[
        Path | None, typer.Option("--image", metavar="PATH", help="A DICOM or .npy; default: an abdominal MR.")
    ] = None,
    sigma: Annotated[
        float, typer.Option("--sigma", metavar="S", min=0.0, help="Acquisition noise that is added, in 1/255 of the range.")
    ] = 25.0,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for picture, image and report.")] = Path(
        "darkroom-demo"
    ),
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Shipped model.")] = DEFAULT_MODEL,
    dir: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Keep keys, stores and logs here; default: a temporary folder.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """See it work: three processes on this machine, one real image, who sees what, and what it costs.

    Example: [bold]darkroom demo --sigma 15 --out demo[/bold]
    """
    from darkroom.demo import run_demo

    with told_as_json(json, makes=out):
        run_demo(image=image, sigma=sigma / 255.0, folder=out, model=model, site=dir, json_path=json)


@app.command()
def up(
    dir: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Folder for keys, stores, logs and configuration.")],
) -> None:
    """Run dealer, server A and server B on this machine until Ctrl-C. For trying out: one machine protects nothing.

    Writes client.toml, edge.toml, hospital.toml and model-owner.toml into DIR.
    What DIR holds already is kept.

    Example: [bold]darkroom up --dir sim[/bold]

    Then, in another terminal: [bold]darkroom doctor --config sim/hospital.toml[/bold]
    """
    from darkroom.commands import run_up

    run_up(dir)


@app.command()
def sample(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="DICOM file to write; nothing is overwritten.")],
    json: JsonOption = None,
) -> None:
    """Write a real medical image to try things with: an abdominal MR that comes with pydicom.

    Example: [bold]darkroom sample scan.dcm[/bold]
    """
    from darkroom.commands import run_sample

    with told_as_json(json):
        run_sample(file, json)


@app.command()
def store(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An image, a volume, or a folder that is one DICOM series.")],
    config: ConfigOption,
    frame: Annotated[int | None, typer.Option("--frame", metavar="N", min=1, help="One plane of several; from 1.")] = None,
    packing: PackingOption = "keyed",
    packing_sigma: PackingSigmaOption = None,
    sigma: Annotated[str, typer.Option("--sigma", metavar="S", help=SIGMA_HELP)] = "auto",
    window: WindowOption = None,
    key: KeyOption = None,
    json: JsonOption = None,
) -> None:
    """Pack an image, split it, and store one share at each server. Prints the object's id, alone; of several planes, one a line.

    Reads DICOM, NIfTI, grey PNG and TIFF, and 2-D float .npy in [0, 1].

    Example: [bold]darkroom store scan.dcm --packing blind --config sim/client.toml[/bold]
    """
    from darkroom.commands import run_store
    from darkroom.store_options import StoreOptions

    packing_unit = None if packing_sigma is None else packing_sigma / 255.0
    run_store(config, file, StoreOptions(packing, packing_unit, noise_level(sigma), window, key), json, frame=frame)


@app.command()
def denoise(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="ID_FILE_OR_DIR", help="What store printed; or a file or folder, all in one.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="Result: .npy, or of the source's kind; of a DIR a folder.")
    ],
    config: ConfigOption,
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="A model that the servers hold.")] = DEFAULT_MODEL,
    sigma: Annotated[str | None, typer.Option("--sigma", metavar="S", help=f"{SIGMA_HELP} Default: as stored.")] = None,
    packing: PackingOption = "keyed",
    packing_sigma: PackingSigmaOption = None,
    key: KeyOption = None,
    anonymize: AnonymizeOption = False,
    series: Annotated[
        bool, typer.Option("--series", help="The folder is one DICOM series: one range of grey levels, and a folder as result.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", min=1, max=16, help="Images of a DIR at a time.")] = 1,
    redo: Annotated[bool, typer.Option("--redo", help="Of a DIR: also the images that are done already.")] = False,
    wait: WaitOption = 0.0,
    engine: EngineOption = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also show where the servers' time went, layer by layer; not of a DIR of images.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Have a stored image denoised and put the result together. With a FILE or DIR: store, open and delete in one.

    --packing and --packing-sigma are for a FILE or DIR; an object keeps those
    that it was stored with. A FILE of several planes gives one file of as many.
    A DIR's images go into the same places under OUT; one failure does not stop
    the rest; run again, it does what is not done. With --series, a folder that
    is one DICOM series gives a folder.

    Example:
    [bold]ID=$(darkroom store scan.dcm --config sim/client.toml)
    darkroom denoise $ID -o clean.dcm --config sim/edge.toml[/bold]

    Example: [bold]darkroom denoise scan.dcm -o clean.dcm --config sim/hospital.toml[/bold]

    Example: [bold]darkroom denoise study/ -o clean/ --config sim/hospital.toml[/bold]
    """
    from client.dicom_derived import Derivation
    from darkroom.batch_command import run_denoise_folder
    from darkroom.commands import is_object, run_denoise
    from darkroom.store_options import StoreOptions

    of_folder = Path(source).is_dir() and not series
    if of_folder:
        refuse_given(context, {"profile", "wait"}, "is for one image or series, not for a folder of images")
    else:
        refuse_given(context, {"jobs", "redo"}, "is for a folder of images")
    if is_object(source) and not series:
        refuse_given(context, {"packing", "packing_sigma"}, "is for a file or folder: an object keeps what it was stored with")
    packing_unit = None if packing_sigma is None else packing_sigma / 255.0
    options = StoreOptions(
        packing, packing_unit, noise_level(sigma), None, key, Derivation.fresh(anonymous=anonymize), engine_name(engine)
    )
    if of_folder:
        run_denoise_folder(config, Path(source), output, model, options, json, jobs=jobs, redo=redo)
    else:
        with told_as_json(json, makes=output if series else None):
            run_denoise(config, source, output, model, options, json, series=series, wait=wait, profile=profile)


@app.command()
def plan(
    size: Annotated[str, typer.Option("--size", metavar="HxW", help="Height and width in pixels, such as 512x512.")],
    model: Annotated[str, typer.Option("--model", metavar="M", help="A shipped model, or a model file.")] = DEFAULT_MODEL,
    bandwidth: Annotated[
        str, typer.Option("--bandwidth", metavar="B", help="Between the servers, each way: 100Mbit, 1Gbit.")
    ] = "1Gbit",
    rtt: Annotated[str, typer.Option("--rtt", metavar="T", help="Round trip between the servers: 500us, 20ms.")] = "20ms",
    engine: EngineOption = None,
    json: JsonOption = None,
) -> None:
    """Say what an evaluation costs before it is paid: by layer what is opened, sent, dealt and computed, and how long it takes.

    Asks no server. Multiplications count at the rate of a core of this machine,
    measured in a moment; bytes over the bandwidth; a message takes half a round
    trip, since both servers send at once; nothing is taken to overlap, so it is
    rather less.

    Example: [bold]darkroom plan --size 512x512 --bandwidth 1Gbit --rtt 20ms[/bold]
    """
    from darkroom.plan_command import run_plan
    from darkroom.units import parse_bandwidth, parse_delay, parse_size

    height, width = parsed(parse_size, size, "--size")
    bits, seconds = parsed(parse_bandwidth, bandwidth, "--bandwidth"), parsed(parse_delay, rtt, "--rtt")
    with told_as_json(json):
        run_plan(model, height, width, bandwidth=bits, rtt=seconds, engine=engine_name(engine), json_path=json)


@app.command("serve-dicom")
def serve_dicom(
    config: ConfigOption,
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where to receive; port 0: any free one.")],
    send_to: Annotated[str, typer.Option("--send-to", metavar="AET@HOST:PORT", help="Who gets the results.")],
    aet: Annotated[str, typer.Option("--aet", metavar="AET", help="Our AE title.")] = "DARKROOM",
    allow_aet: Annotated[
        list[str] | None, typer.Option("--allow-aet", metavar="AET", help="A sender that is served; may be repeated.")
    ] = None,
    spool: Annotated[
        Path | None, typer.Option("--spool", metavar="DIR", help="What is not yet delivered; default: beside --config.")
    ] = None,
    max_spool_bytes: Annotated[
        int, typer.Option("--max-spool-bytes", metavar="N", min=1, help="Beyond it senders are told to wait.")
    ] = 10 << 30,
    forward_unsupported: Annotated[
        bool, typer.Option("--forward-unsupported", help="Send on unchanged what cannot be denoised, such as colour.")
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Receive with TLS: our certificate.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key (mode 0600).")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", metavar="FILE", help="CA whose certificates senders and destination must show.")
    ] = None,
    send_tls: Annotated[bool, typer.Option("--send-tls", help="Send with TLS too.")] = False,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="HOST:PORT", help="Show Prometheus metrics there, on loopback. Default: nowhere."),
    ] = None,
    metrics_remote: Annotated[
        bool, typer.Option("--metrics-allow-remote", help="Also where other machines reach them: plain HTTP.")
    ] = False,
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="A model that the servers hold.")] = DEFAULT_MODEL,
    sigma: Annotated[str, typer.Option("--sigma", metavar="S", help=SIGMA_HELP)] = "auto",
    packing: PackingOption = "keyed",
    packing_sigma: PackingSigmaOption = None,
    key: KeyOption = None,
) -> None:
    """Receive images by C-STORE, denoise them, and send the results on by C-STORE, until SIGTERM or Ctrl-C.

    What is received is on disk before it is acknowledged; a restart goes on
    with it. docs/pacs.md says how to set it up.

    Example:
    [bold]export DARKROOM_CONFIG=sim/hospital.toml
    darkroom serve-dicom --listen 127.0.0.1:11112 --send-to PACS@127.0.0.1:4242[/bold]
    """
    from darkroom.pacs.addresses import parse_address, parse_aet, parse_peer
    from darkroom.pacs.command import PacsOptions, run_serve_dicom, tls_files
    from darkroom.pacs.receiver import Listening
    from darkroom.store_options import StoreOptions
    from proto.metrics import metrics_address

    if metrics is None and metrics_remote:
        raise typer.BadParameter("is for --metrics, which is not given", param_hint="--metrics-allow-remote")
    shown = partial(metrics_address, allow_remote=metrics_remote, setting="--metrics", allowing="add --metrics-allow-remote")
    tls = tls_files(tls_cert, tls_key, tls_ca)
    listening = Listening(
        parsed(partial(parse_address, any_port=True), listen, "--listen"),
        parsed(parse_aet, aet, "--aet"),
        tuple(parsed(parse_aet, title, "--allow-aet") for title in allow_aet or ()),
        tls,
    )
    packing_unit = None if packing_sigma is None else packing_sigma / 255.0
    store = StoreOptions(packing, packing_unit, noise_level(sigma), None, key)
    destination = parsed(parse_peer, send_to, "--send-to")
    options = PacsOptions(
        listening,
        destination,
        send_tls,
        spool,
        max_spool_bytes,
        forward_unsupported,
        None if metrics is None else parsed(shown, metrics, "--metrics"),
    )
    run_serve_dicom(config, model, store, options)


@app.command()
def delete(
    object_id: Annotated[str, typer.Argument(metavar="ID", help="What store printed.")],
    config: ConfigOption,
    json: JsonOption = None,
) -> None:
    """Delete an object at both servers, and its record here.

    Example:
    [bold]ID=$(darkroom store scan.dcm --config sim/client.toml)
    darkroom delete $ID --config sim/client.toml[/bold]
    """
    from darkroom.commands import run_delete

    with told_as_json(json):
        run_delete(config, object_id, json)


@app.command()
def doctor(config: ConfigOption, json: JsonOption = None) -> None:
    """Check files, certificates, clocks, servers and models. Exit code 0 only if every check passes; warnings pass.

    Servers and dealer have their own: [bold]python -m server_a --config FILE --check[/bold].

    Example: [bold]darkroom doctor --config sim/hospital.toml[/bold]
    """
    from darkroom.commands import run_doctor

    with told_as_json(json):
        run_doctor(config, json)
