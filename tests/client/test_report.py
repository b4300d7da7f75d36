import json
import math
from dataclasses import replace

import pytest
import torch

from client.acquisition import store
from client.edge import denoise
from client.model_file import Model
from client.report import build_report, float_estimate, measure_exactness, measure_quality, psnr_db, ssim, write_report
from protocols.layers import Conv
from protocols.network import Network


@pytest.fixture
def denoised(hospital, servers, image):
    return denoise(hospital, store(hospital, image, sigma=0.1).object_id, model="base")


def test_the_report_has_every_key_of_the_contract(tmp_path, denoised, image):
    truth = image.pixels + 0.01
    reference = image.pixels + 2.0**-12
    report = build_report(
        denoised,
        image.origin,
        version="0.1.0",
        quality=measure_quality(truth, image.pixels + 0.1, denoised.pixels),
        exactness=measure_exactness(denoised, reference, truth=truth),
    )
    write_report(tmp_path / "report.json", report)
    found = json.loads((tmp_path / "report.json").read_bytes())
    assert list(found) == ["version", "engine", "image", "mode", "model", "quality", "exactness", "cost"]
    assert found["image"] == {"source": "doe^john.npy", "height": 20, "width": 30, "bits": 64}
    assert (found["mode"], found["engine"]) == ("keyed", "fake")
    assert found["model"] == {"name": "base", "push_id": "5" * 32}
    assert set(found["quality"]) == {"psnr_in_db", "psnr_out_db", "ssim_in", "ssim_out", "data_range"}
    assert found["quality"]["psnr_out_db"] == pytest.approx(40.0)
    assert found["exactness"]["max_abs_diff"] == 2.0**-12
    assert set(found["exactness"]) == {"max_abs_diff", "psnr_diff_db"}
    assert set(found["cost"]) == {
        "online_seconds",
        "offline_seconds",
        "upload_bytes",
        "download_bytes",
        "sent_bytes",
        "dealt_bytes",
        "rounds",
        "flags",
        "peak_rss_bytes",
    }
    assert found["cost"]["sent_bytes"] == {"A": 7, "B": 7}
    assert found["cost"]["peak_rss_bytes"] == {"A": 0, "B": 0, "dealer": 9}
    assert found["cost"]["online_seconds"] == 2.0


def test_what_is_unknown_is_left_out(denoised, image):
    report = build_report(denoised, image.origin, version="0.1.0")
    assert "quality" not in report
    assert "exactness" not in report
    assert measure_exactness(denoised, image.pixels).psnr_diff_db is None


def test_equal_images_give_valid_json(tmp_path, denoised, image):
    assert psnr_db(image.pixels, image.pixels) == math.inf
    quality = measure_quality(image.pixels, image.pixels, image.pixels)
    report = build_report(
        denoised, image.origin, version="0", quality=quality, exactness=measure_exactness(denoised, image.pixels)
    )
    write_report(tmp_path / "report.json", report)
    assert json.loads((tmp_path / "report.json").read_text())["quality"]["psnr_out_db"] is None


@pytest.mark.parametrize("shape", [(8, 8), (9, 40), (11, 11), (64, 64)])
def test_ssim_of_any_size(shape):
    plane = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert ssim(plane, plane) == pytest.approx(1.0)
    assert ssim(plane, 1 - plane) < 0.5


def test_float_estimate_runs_the_network_on_the_grid(image):
    network = Network((Conv("only", "image", 1, 1),))
    model = Model("double", network, {"only.weight": torch.full((1, 1, 1, 1), 2.0), "only.bias": torch.tensor([0.25])}, 1.0)
    estimate = float_estimate(model, image.pixels + 2.0**-20, 0.1)
    assert torch.equal(estimate, image.pixels * 2 + 0.25)


def test_exactness_in_blind_mode_is_that_of_the_network(denoised, image):
    from client.edge import BlindResult

    blind = BlindResult(estimate=image.pixels + 0.5, packed=image.pixels, correlation=0.9, threshold=0.1, weight=0.5)
    assert measure_exactness(replace(denoised, blind=blind), image.pixels).max_abs_diff == pytest.approx(0.5)
