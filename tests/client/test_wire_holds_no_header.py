"""What client and edge send to both servers holds nothing of a DICOM header, and no pixel; what comes back is from their disk."""

import numpy as np
import pydicom
import pytest

from client.acquisition import store
from client.edge import denoise
from client.images import read_image, write_result
from client.records import load_origin
from protocols.identifiers import Role
from security.needles import number_needles, search, text_needles
from tests.client.dicom_files import PROVENANCE, small_ct, with_pixels, write

HEADER = {
    "PatientName": "Zweistein^Canaria",
    "PatientID": "CANARY-77310-X",
    "AccessionNumber": "ACC-4455-CANARY",
    "InstitutionName": "Canary General Hospital",
    "StudyDescription": "canary study of the left knee",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.77310",
    "PatientBirthDate": "19771122",
}


@pytest.fixture
def canary(tmp_path):
    words = np.random.default_rng(5).integers(0, 3000, (20, 24)).astype("i2")
    words[:3, :4] = -2000
    return write(tmp_path / "canary.dcm", with_pixels(small_ct(**HEADER), words, PixelPaddingValue=-2000)), words


def sent(servers):
    """Everything that both servers were sent."""
    parts = []
    for server in servers.values():
        for header, content in server.objects.values():
            parts += [header.SerializeToString(), content]
        parts += [request.SerializeToString() for request in server.requests]
    return b"".join(parts)


def needles(path, words):
    found = [needle for keyword, text in HEADER.items() for needle in text_needles(keyword, text)]
    found += text_needles("file name", path.name)
    grey = read_image(path).pixels[10, 4:12].tolist()
    return found + number_needles("pixels", grey, stored=words[10, 4:12].tolist())


def test_no_header_value_no_name_and_no_pixel_is_sent(hospital, servers, canary, tmp_path):
    path, words = canary
    image = read_image(path)
    record = store(hospital, image, sigma=0.05)
    denoised = denoise(hospital, record.object_id, model="base")
    messages = sent(servers)
    assert len(messages) > 20 * 24 * 8
    assert len(servers[Role.A].requests) == len(servers[Role.B].requests) == 1
    assert search(messages, needles(path, words)) == []
    # and yet the result has all of it, from the hospital's own disk
    write_result(tmp_path / "out.dcm", denoised.pixels, load_origin(hospital.objects, record), PROVENANCE)
    found = pydicom.dcmread(tmp_path / "out.dcm")
    assert found.PatientName == HEADER["PatientName"]
    assert (found.pixel_array[:3, :4] == -2000).all()


def test_the_search_finds_a_header_that_is_sent(hospital, servers, canary):
    path, words = canary
    image = read_image(path)
    record = store(hospital, image, sigma=0.05)
    header, content = servers[Role.B].objects[str(record.object_id)]
    servers[Role.B].objects[str(record.object_id)] = (header, content + str(image.dataset).encode() + words.tobytes())
    found = {needle.secret for needle in search(sent(servers), needles(path, words))}
    assert {"PatientName", "PatientID", "AccessionNumber", "pixels"} <= found
