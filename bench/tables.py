"""The benchmark's figures as Markdown."""

from typing import Any

LABELS = {
    "ours": "Darkroom, CrypTen engine (TLS, dealer)",
    "stock": "stock CrypTen (TFP, gloo)",
    "float": "plaintext PyTorch, float64, one thread",
}
MEBIBYTE = 1 << 20


def _cell(row: dict[str, float], name: str, scale: float = 1.0, digits: int = 2) -> str:
    return f"{row[name] / scale:.{digits}f}" if name in row else "-"


def markdown(result: dict[str, Any]) -> str:
    """One table for all sizes, then the ratios."""
    lines = [
        f"Model `{result['model']}`, medians of {result['repetitions']}, {result['machine']['cores']} cores, "
        f"one thread per server; Darkroom {result['version']}, "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "",
        "| size | engine | online s | offline s | sent per server MiB | dealt to B MiB | rounds | peak RSS MiB | largest error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for side, engines in result["sizes"].items():
        for engine, row in engines.items():
            offline = _cell(row, "offline_seconds")
            if engine == "stock":
                offline = "inside online"
            error = f"{row['max_abs_diff']:.1e}" if "max_abs_diff" in row else "-"
            lines.append(
                f"| {side} | {LABELS[engine]} | {_cell(row, 'online_seconds')} | {offline} "
                f"| {_cell(row, 'sent_bytes', MEBIBYTE, 1)} | {_cell(row, 'dealt_bytes', MEBIBYTE, 1)} "
                f"| {_cell(row, 'rounds', digits=0)} | {_cell(row, 'peak_rss_bytes', MEBIBYTE, 0)} | {error} |"
            )
        ours, stock = engines["ours"]["online_seconds"], engines["stock"]
        whole = ours + engines["ours"]["offline_seconds"]
        ratios.append(
            f"- {side}x{side}: online {ours / stock['online_seconds']:.2f} of stock's; "
            f"{ours / stock['online_without_dealing_seconds']:.2f} of stock's with the time that TFP spends on dealing "
            f"taken off; online plus offline {whole / stock['online_seconds']:.2f} of stock's whole."
        )
    return "\n".join([*lines, "", *ratios])
