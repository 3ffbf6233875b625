# Copyright (c) monai_u2 contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""The viewer: what it serves and refuses, what its page says, and what a browser shows of it."""

from __future__ import annotations

import html
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nibabel as nib
import numpy as np
import pytest

from monai_u2.apps.viewer import (
    ViewedReport,
    ViewerServer,
    nifti_of,
    preview_of,
    remember_image,
    remembered_image,
)
from monai_u2.commands.view import view_report
from monai_u2.data.report_text import report_text
from monai_u2.evidence.sentences import report_sentences
from monai_u2.exceptions import InputError
from tests.apps.chromium import PROGRAM, Chromium
from tests.command_line import run_command_line

AFFINE = np.array([[-3.0, 0, 0, 90], [0, -3, 0, 90], [0, 0, 4, -200], [0, 0, 0, 1]])  # LPS axes
SHAPE = (60, 56, 40)
BALLS = {"left": (45, 20, 30), "right": (15, 35, 12)}  # voxel of the middle; X runs to the patient's left
REPORT = "FINDINGS:\nPleura: Clear. A dense ball lies on the left. A dense ball lies on the <right>."
TEXTS = ("Clear.", "A dense ball lies on the left.", "A dense ball lies on the <right>.")

needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")


def lps_of(voxel: tuple[int, ...]) -> list[float]:
    mm = AFFINE[:3, :3] @ voxel + AFFINE[:3, 3]
    return [float(-mm[0]), float(-mm[1]), float(mm[2])]


def sentence(text: str, ball: str | None, flags: tuple[str, ...] = ()) -> dict:
    place = None
    if ball is not None:
        z = BALLS[ball][2]
        place = {"peak_lps_mm": lps_of(BALLS[ball]), "peak_voxel": list(BALLS[ball]), "concentration": 0.8}
        place |= {"slices": {"axis": 2, "first": z - 2, "last": z + 2}, "confidence": 0.9, "spread": 0.3}
    start = REPORT.index(text)
    entry = {"text": text, "start": start, "end": start + len(text), "section": "findings", "place": place}
    return entry | {"image_gain_nats": 3.0 * bool(ball), "rests_on_image": ball is not None, "flags": list(flags)}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A box of water in air with two balls of 300 HU."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    array = np.full(SHAPE, -1000, dtype=np.int16)
    array[4:-4, 4:-4, 2:-2] = 0
    for number, middle in enumerate(BALLS.values(), start=1):
        array[(np.linalg.norm((grid - middle) * (3, 3, 4), axis=-1)) < 10] = 300 * number
    path = tmp_path / "Doe^Jane.nii.gz"
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


@pytest.fixture
def folder(tmp_path: Path, image: Path) -> Path:
    """What ``monai-u2 report --evidence`` would write."""
    folder = tmp_path / "report"
    folder.mkdir()
    sentences = [sentence(TEXTS[0], None), sentence(TEXTS[1], "left"), sentence(TEXTS[2], "right", ("other side",))]
    content = {"report": REPORT, "question": "Describe.", "warnings": [], "sentences": sentences}
    content |= {"model": {"name": "u2llm", "version": "1"}, "geometry": {"shape": SHAPE}}
    (folder / "report.json").write_text(json.dumps(content))
    maps = np.zeros((12, 12, 8, 3), dtype=np.float32)
    for index, ball in ((1, "left"), (2, "right")):
        maps[tuple(middle // 5 for middle in BALLS[ball]) + (index,)] = 1
    token_affine = AFFINE.copy()
    token_affine[:3, :3] *= 5
    token_affine[:3, 3] = AFFINE[:3, :3] @ (2, 2, 2) + AFFINE[:3, 3]
    nib.save(nib.Nifti1Image(maps, token_affine), folder / "evidence_sentences.nii.gz")
    (folder / "secret.txt").write_text("not for you")
    remember_image(folder, image)
    return folder


@pytest.fixture
def server(folder: Path, image: Path) -> Iterator[ViewerServer]:
    with ViewerServer(ViewedReport.read(folder), image) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: ViewerServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def change(folder: Path, **values: object) -> None:
    file = folder / "report.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_page_scripts_and_volumes_are_served(server: ViewerServer, folder: Path, image: Path) -> None:
    root = urlsplit(server.url).path
    status, headers, page = ask(server, root)
    assert status == 200 and headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    for name in re.findall(r'(?:src|href)="([^":]+)"', page.decode()):
        assert ask(server, root + name)[0] == 200, name
    assert ask(server, f"{root}ct.nii.gz")[2] == image.read_bytes()
    assert ask(server, f"{root}evidence_sentences.nii.gz")[2] == (folder / "evidence_sentences.nii.gz").read_bytes()


def test_head_gives_the_length_alone(server: ViewerServer, image: Path) -> None:
    status, headers, body = ask(server, f"{urlsplit(server.url).path}ct.nii.gz", "HEAD")
    assert (status, int(headers["content-length"]), body) == (200, image.stat().st_size, b"")


def test_it_listens_on_this_machine_only(server: ViewerServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}"]
)
def test_foreign_hosts_are_refused(server: ViewerServer, host: str) -> None:
    host = host.format(port=server.server_port)
    status, _, body = ask(server, urlsplit(server.url).path, Host=host)
    assert status == 403 and b"sentence" not in body


def test_a_missing_host_is_refused(server: ViewerServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest("GET", urlsplit(server.url).path, skip_host=True)
    connection.endheaders()
    assert connection.getresponse().status == 403


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", 200), ("localhost", 200), ("evil.example", 403)])
def test_port_80_needs_not_be_named(server: ViewerServer, host: str, expected: int) -> None:
    """Browsers leave it out."""
    port, path = server.server_port, urlsplit(server.url).path
    server.server_port = 80  # only privileged users may open it
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"Host": host})
    assert connection.getresponse().status == expected


def test_an_address_that_is_none_is_a_bad_request(server: ViewerServer) -> None:
    assert ask(server, "http://[/x", Host=f"localhost:{server.server_port}")[0] == 400


def test_localhost_is_this_machine(server: ViewerServer) -> None:
    assert ask(server, urlsplit(server.url).path, Host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("{root}../report/secret.txt", 403),
        ("{root}%2e%2e/Doe%5EJane.nii.gz", 403),
        ("{root}..%5csecret.txt", 403),
        ("/../../../../etc/passwd", 403),
        ("{root}secret.txt", 404),
        ("{root}report.json", 404),
        ("{root}/etc/passwd", 404),
        ("{root}static/", 404),
        ("/", 404),
        ("/ct.nii.gz", 404),
        ("/another-key/ct.nii.gz", 404),
    ],
)
def test_nothing_else_is_served(server: ViewerServer, path: str, expected: int) -> None:
    status, headers, body = ask(server, path.format(root=urlsplit(server.url).path))
    assert status == expected and b"not for you" not in body
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_reading_is_allowed(server: ViewerServer, method: str) -> None:
    assert ask(server, urlsplit(server.url).path, method)[0] == 501


def test_page_names_no_other_host_and_no_file(server: ViewerServer) -> None:
    page = ask(server, urlsplit(server.url).path)[2].decode()
    assert "//" not in page and "Doe^" not in page


def test_marks_stand_in_words_and_text_is_escaped(server: ViewerServer) -> None:
    page = ask(server, urlsplit(server.url).path)[2].decode()
    assert "⚠ evidence lies on the other side than the one named" in page
    assert page.count('<span class="mark none">○ not from the image</span>') == 2  # the sentence's, the legend's
    assert "&lt;right&gt;" in page and "<right>" not in page


def test_a_volume_that_goes_is_a_404(server: ViewerServer, folder: Path) -> None:
    (folder / "evidence_sentences.nii.gz").unlink()
    assert ask(server, f"{urlsplit(server.url).path}evidence_sentences.nii.gz")[0] == 404


def test_vendored_script_is_the_one_named() -> None:
    import hashlib

    import monai_u2.apps.viewer as viewer

    folder = Path(viewer.__file__).parent / "static" / "niivue"
    digest = hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest()
    assert f"\nfile sha256: {digest}\n" in (folder / "VERSION").read_text()
    assert "BSD 2-Clause" in (folder / "LICENSE").read_text()


def test_report_without_evidence(folder: Path) -> None:
    content = json.loads((folder / "report.json").read_text())
    del content["sentences"]
    (folder / "report.json").write_text(json.dumps(content))
    viewed = ViewedReport.read(folder)
    assert viewed.segments == [(REPORT, None)] and viewed.maps is None
    assert "has no evidence" in viewed.notices[0] and "--evidence" in viewed.notices[0]


def test_unchanged_report_has_no_notice(folder: Path) -> None:
    viewed = ViewedReport.read(folder)
    assert viewed.notices == []
    assert "".join(text for text, _ in viewed.segments) == REPORT
    assert [text for text, index in viewed.segments if index is not None] == list(TEXTS)


@pytest.mark.parametrize(
    ("report", "kept", "said"),
    [
        (REPORT.replace("Clear. ", ""), [1, 2], "No longer where it stood: Clear."),
        (REPORT.replace("left", "right"), [0, 2], "No longer where it stood: A dense ball lies on the left."),
        (REPORT + " The heart is large.", [0, 1, 2], "was changed"),
        (REPORT.replace("Pleura", "Pleural space"), [0, 1, 2], "was changed"),
    ],
)
def test_edited_report_is_said(folder: Path, report: str, kept: list[int], said: str) -> None:
    change(folder, report=report)
    viewed = ViewedReport.read(folder)
    assert len(viewed.notices) == 1 and said in viewed.notices[0]
    assert [index for _, index in viewed.segments if index is not None] == kept
    assert "".join(text for text, _ in viewed.segments) == report


@pytest.mark.parametrize(
    ("report", "kept"),
    [
        ("FINDINGS:\nA cyst. A stone.\nIMPRESSION:\nNo effusion.", [1, 2, 3]),
        ("FINDINGS:\nNo effusion. A cyst. A stone.", [0, 1, 2]),
        ("FINDINGS:\nNo effusion. A cyst.\nIMPRESSION:\nNo effusion.", [0, 1, 3]),
        ("FINDINGS:\nA stone. IMPRESSION: No effusion.", [2]),
        ("FINDINGS:\nNot A cyst. A stone in the bladder.", []),
    ],
)
def test_sentences_that_are_said_twice_keep_their_own_evidence(folder: Path, report: str, kept: list[int]) -> None:
    before = "FINDINGS:\nNo effusion. A cyst. A stone.\nIMPRESSION:\nNo effusion."
    sentences = [{**sentence(TEXTS[0], None), **asdict(one)} for one in report_sentences(before)]
    change(folder, report=report, sentences=sentences)
    viewed = ViewedReport.read(folder)
    assert [index for _, index in viewed.segments if index is not None] == kept
    assert [text for text, index in viewed.segments if index is not None] == [sentences[i]["text"] for i in kept]
    assert "".join(text for text, _ in viewed.segments) == report and "was changed" in viewed.notices[0]


def test_the_end_of_the_findings_is_not_taken_for_the_impression(folder: Path) -> None:
    before = "FINDINGS:\nA cyst. A stone.\nIMPRESSION:\nA stone."
    sentences = [{**sentence(TEXTS[0], None), **asdict(one)} for one in report_sentences(before)]
    change(folder, report="FINDINGS:\nA cyst.\nIMPRESSION:\nA stone.", sentences=sentences)
    assert [index for _, index in ViewedReport.read(folder).segments if index is not None] == [0, 2]


def test_report_txt_that_says_something_else_is_said(folder: Path) -> None:
    file = folder / "report.txt"
    written = report_text(REPORT, "Describe.", [], "u2llm", "1")
    file.write_bytes(written.replace("\n", "\r\n").encode("utf-8-sig"))
    assert ViewedReport.read(folder).notices == []
    file.write_text(written.replace("left", "right"))
    (notice,) = ViewedReport.read(folder).notices
    assert notice.startswith("report.txt says something else than report.json.")


def test_notices_and_warnings_stand_on_the_page_and_notices_in_the_terminal(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The warnings were printed with the report."""
    change(folder, warnings=["thick slices"])
    (folder / "report.txt").write_text("The heart is large.")
    view_report(str(folder), export=str(tmp_path / "page.html"))
    page, printed = html.unescape((tmp_path / "page.html").read_text()), capsys.readouterr().out
    assert "Warning: thick slices" in page and "report.txt says something else" in page
    assert "report.txt says something else" in printed and "thick slices" not in printed


@pytest.mark.parametrize(("spoil", "said"), [("missing", "is missing"), ("cut", "can't be read"), ("fewer", "2 maps")])
def test_maps_that_do_not_fit_are_said(folder: Path, spoil: str, said: str) -> None:
    file = folder / "evidence_sentences.nii.gz"
    if spoil == "missing":
        file.unlink()
    elif spoil == "cut":
        file.write_bytes(file.read_bytes()[:20])
    else:
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 2), np.float32), AFFINE), file)
    viewed = ViewedReport.read(folder)
    assert viewed.maps is None and said in viewed.notices[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "no such file"), ("{", "is no JSON"), ("[]", "it is no object"), ("{}", "it lacks report")],
)
def test_unreadable_reports_are_refused(folder: Path, text: str | None, said: str) -> None:
    (folder / "report.json").unlink()
    if text is not None:
        (folder / "report.json").write_text(text)
    with pytest.raises(InputError, match=said):
        ViewedReport.read(folder)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("model",), {}, "model lacks name, version;"),
        (("warnings",), "one", "warnings is no list;"),
        (("geometry",), [], "geometry is no object;"),
        (("sentences",), None, "sentences is no list;"),
        (("sentences", 0), {"text": "Clear."}, "sentences[0] lacks start, end, section, place, "),
        (("sentences", 0, "flags"), "diffuse", "sentences[0].flags is no list;"),
        (("sentences", 1, "flags"), [1], "sentences[1].flags[0] isn't a text;"),
        (("sentences", 2, "start"), "12", "sentences[2].start isn't a whole number;"),
        (("sentences", 2, "start"), True, "sentences[2].start isn't a whole number;"),
        (("sentences", 2, "rests_on_image"), 1, "sentences[2].rests_on_image isn't true or false;"),
        (("sentences", 1, "place"), {}, "sentences[1].place lacks peak_lps_mm, "),
        (("sentences", 1, "place", "peak_lps_mm"), [1.0], "sentences[1].place.peak_lps_mm is no list of 3;"),
        (("sentences", 1, "place", "confidence"), None, "sentences[1].place.confidence isn't a number;"),
    ],
)
def test_fields_of_another_kind_are_refused(folder: Path, path: tuple, value: object, said: str) -> None:
    content = part = json.loads((folder / "report.json").read_text())
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (folder / "report.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=re.escape(f"report.json: {said}")):
        ViewedReport.read(folder)


def test_port_in_use(server: ViewerServer, folder: Path, image: Path) -> None:
    with pytest.raises(InputError, match=f"port {server.server_port} .*is in use. Give another with --port"):
        ViewerServer(ViewedReport.read(folder), image, server.server_port)


def test_port_that_is_none(folder: Path, image: Path) -> None:
    with pytest.raises(InputError, match="port 70000"):
        ViewerServer(ViewedReport.read(folder), image, 70000)


def test_nifti_is_served_where_it_lies(image: Path, tmp_path: Path) -> None:
    assert nifti_of(image, None, tmp_path) == image


def test_another_ct_is_refused(image: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another CT than the report's"):
        nifti_of(image, "0" * 16, tmp_path)


def test_missing_ct_is_refused(folder: Path, image: Path, tmp_path: Path) -> None:
    image.unlink()
    with pytest.raises(InputError, match="--image"):
        nifti_of(remembered_image(folder)[0], None, tmp_path)


def test_ct_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Give the CT with --image"):
        remembered_image(tmp_path)


def test_two_orientations_become_the_one_that_was_read(image: Path, tmp_path: Path) -> None:
    ct = nib.load(image)
    ct.set_sform(AFFINE, code=1)
    ct.set_qform(np.diag([3.0, 3, 4, 1]), code=1)
    nib.save(ct, tmp_path / "two.nii.gz")
    made = nib.load(nifti_of(tmp_path / "two.nii.gz", None, tmp_path))
    assert np.allclose(made.affine, AFFINE) and made.header["qform_code"] == 0
    assert np.array_equal(made.dataobj, ct.dataobj) and made.get_data_dtype() == np.int16


def test_other_kinds_are_converted(image: Path, tmp_path: Path) -> None:
    import itk

    ct = nib.load(image)
    array = itk.image_from_array(np.ascontiguousarray(np.asarray(ct.dataobj).T))
    array.SetSpacing([3.0, 3.0, 4.0])
    array.SetOrigin([-90.0, -90.0, -200.0])  # of the same voxels in LPS, whose axes these are
    itk.imwrite(array, str(tmp_path / "ct.mha"))
    made = nib.load(nifti_of(tmp_path / "ct.mha", None, tmp_path))
    assert np.allclose(made.affine, AFFINE) and np.array_equal(made.dataobj, ct.dataobj)


def test_command_exports(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command_line(monkeypatch, "view", folder, "--export", tmp_path / "page.html") == 0
    page = html.unescape((tmp_path / "page.html").read_text())
    assert 'id="volume-ct"' in page and 'id="volume-maps"' in page and "connect-src 'none'" in page
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?!data:)", page) and "Doe^" not in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["view", "nowhere"], "report.json: no such file"),
        (["view", "{folder}", "--image", "none.nii.gz"], "none.nii.gz: no such file"),
        (["view", "{folder}", "--port", "-1"], "--port is -1"),
        (["view", "{folder}", "--export", "{folder}"], "is a folder"),
    ],
)
def test_command_refuses(
    arguments: list[str], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(monkeypatch, *[argument.format(folder=folder) for argument in arguments]) == 2
    assert said in capsys.readouterr().err


def test_another_place_of_the_ct_keeps_its_series(
    folder: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_image(folder, image, "1.2.3")
    asked = []
    monkeypatch.setattr("monai_u2.apps.viewer.nifti_of", lambda ct, series, made, uid: asked.append((ct, uid)) or image)
    view_report(str(folder), image=str(tmp_path / "moved"), export=str(tmp_path / "page.html"))
    assert asked == [(tmp_path / "moved", "1.2.3")]


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_an_image_that_is_given_needs_no_remembered_one(
    text: str | None, folder: Path, image: Path, tmp_path: Path
) -> None:
    (folder / "viewer.json").unlink()
    if text is not None:
        (folder / "viewer.json").write_text(text)
    view_report(str(folder), image=str(image), export=str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").is_file()


def test_the_browser_is_not_given_the_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments of processes can be read by everyone on the machine."""
    opened = []

    def open_page(address: str) -> None:
        door = Path(unquote(urlsplit(address).path))
        opened.append((address, door.read_text(), door.parent.stat().st_mode & 0o077))

    monkeypatch.setattr("webbrowser.open", open_page)
    monkeypatch.setattr(ViewerServer, "serve_forever", lambda server: opened.append(server.url))
    view_report(str(folder))
    (address, content, others), url = opened
    assert address.startswith("file:") and url not in address and f"url={url}" in content and others == 0


def test_command_serves_until_it_is_interrupted(folder: Path) -> None:
    def hear_interrupts() -> None:  # what a shell starts in the background ignores them, and hands that on
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, "-m", "monai_u2", "view", str(folder), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=hear_interrupts) as process:
        try:
            address = urlsplit(process.stdout.readline().strip())
            connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=20)
            connection.request("GET", address.path)
            assert connection.getresponse().status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.browser
@needs_chromium
def test_a_browser_goes_to_each_sentence(server: ViewerServer, tmp_path: Path) -> None:
    """Clicks, keys and windows; nothing leaves the machine, and the console stays silent."""
    with Chromium(tmp_path / "profile", size=(900, 600)) as browser:
        browser.open(server.url)
        browser.run("viewer.ready")
        for index, ball in ((2, "right"), (1, "left")):
            browser.click(f"[data-sentence='{index}']")
            assert browser.run("viewer.crosshairMm()") == pytest.approx(lps_of(BALLS[ball]), abs=0.01)
            assert browser.run("viewer.evidence()") == {"frame": index, "opacity": 0.35}
            value = 300 if ball == "left" else 600
            assert browser.run("document.getElementById('location').textContent").endswith(f" {value} HU")
        browser.press("ArrowUp")
        assert "no place" in browser.run("document.getElementById('cited').textContent")
        assert browser.run("viewer.evidence().opacity") == 0
        assert browser.run("viewer.crosshairMm()") == pytest.approx(lps_of(BALLS["left"]), abs=0.01)
        browser.press("ArrowDown")
        browser.press("ArrowDown")
        assert browser.run("viewer.crosshairMm()") == pytest.approx(lps_of(BALLS["right"]), abs=0.01)
        for key, window in (("1", [-1350, 150]), ("3", [-500, 1300]), ("2", [-160, 240])):
            browser.press(key)
            assert browser.run("viewer.window()") == window
        browser.press("e")
        assert browser.run("viewer.evidence().opacity") == 0
        assert browser.problems == []
        own = [url for url in browser.requests if not url.startswith("data:")]
        assert own and all(url.startswith(server.url) for url in own), own


def test_preview_holds_every_second_voxel_or_so(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preview_of(image, tmp_path) is None
    monkeypatch.setattr("monai_u2.apps.viewer.ct.PREVIEW_VOXELS", 20_000)
    file = preview_of(image, tmp_path)
    assert file is not None
    preview, whole = nib.load(file), nib.load(image)
    assert preview.shape == (30, 28, 20) and np.prod(preview.shape) <= 20_000  # 6 × 6 × 8 mm
    assert np.array_equal(preview.get_fdata(), whole.get_fdata()[::2, ::2, ::2])
    assert np.array_equal(preview.affine, AFFINE @ np.diag([2, 2, 2, 1])) and preview.get_data_dtype() == np.int16


@pytest.mark.browser
@needs_chromium
def test_a_large_ct_is_shown_in_fewer_voxels_first(folder: Path, image: Path, tmp_path: Path) -> None:
    """And in all of them where asked to; the crosshair stays."""
    small = nib.load(image).slicer[::2, ::2, ::2]
    nib.save(small, tmp_path / "small.nii")
    with ViewerServer(ViewedReport.read(folder), image, preview=tmp_path / "small.nii") as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with Chromium(tmp_path / "profile", size=(900, 600)) as browser:
            browser.open(server.url)
            browser.run("viewer.ready")
            assert browser.run("viewer.preview()") and browser.run("viewer.shape()") == [30, 28, 20]
            browser.press("1")
            for index, ball in ((2, "right"), (1, "left")):
                browser.click(f"[data-sentence='{index}']")
                assert browser.run("viewer.crosshairMm()") == pytest.approx(lps_of(BALLS[ball]), abs=0.01)
            browser.click("#whole")
            browser.wait_for(lambda: not browser.run("viewer.preview()"))
            assert browser.run("viewer.shape()") == list(SHAPE) and browser.run("viewer.window()") == [-1350, 150]
            assert browser.run("viewer.crosshairMm()") == pytest.approx(lps_of(BALLS["left"]), abs=0.01)
            assert browser.run("document.getElementById('location').textContent").endswith(" 300 HU")
            assert browser.problems == []
        server.shutdown()


@pytest.mark.browser
@needs_chromium
def test_a_click_while_all_voxels_load_is_kept(folder: Path, image: Path, tmp_path: Path) -> None:
    nib.save(nib.load(image).slicer[::2, ::2, ::2], tmp_path / "small.nii")
    with ViewerServer(ViewedReport.read(folder), image, preview=tmp_path / "small.nii") as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with Chromium(tmp_path / "profile", size=(900, 600)) as browser:
            browser.open(server.url)
            browser.run("viewer.ready")
            browser.click("[data-sentence='2']")
            browser.run(
                "(fetch => { window.fetch = async (name) => "
                "{ await new Promise((done) => { window.goOn = done; }); return fetch(name); }; })(window.fetch)"
            )
            browser.click("#whole")
            browser.wait_for(lambda: browser.run("window.goOn !== undefined"))
            browser.click("[data-sentence='1']")
            browser.run("goOn()")
            browser.wait_for(lambda: not browser.run("viewer.preview()"))
            assert browser.run("viewer.crosshairMm()") == pytest.approx(lps_of(BALLS["left"]), abs=0.01)
            assert browser.run("viewer.evidence()") == {"frame": 1, "opacity": 0.35}
        server.shutdown()


@pytest.mark.browser
@needs_chromium
def test_the_exported_page_needs_nothing_else(
    folder: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large CT it shows fewer voxels first, as the served page does."""
    monkeypatch.setattr("monai_u2.apps.viewer.ct.PREVIEW_VOXELS", 20_000)
    view_report(str(folder), export=str(tmp_path / "page.html"))
    with Chromium(tmp_path / "profile", size=(900, 600)) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        browser.run("viewer.ready")
        assert browser.run("viewer.preview()") and browser.run("viewer.shape()") == [30, 28, 20]
        browser.click("[data-sentence='2']")
        assert browser.run("viewer.crosshairMm()") == pytest.approx(lps_of(BALLS["right"]), abs=0.01)
        browser.click("#whole")
        browser.wait_for(lambda: not browser.run("viewer.preview()"))
        assert browser.run("viewer.shape()") == list(SHAPE)
        assert browser.run("viewer.crosshairMm()") == pytest.approx(lps_of(BALLS["right"]), abs=0.01)
        assert browser.problems == []
        outside = [url for url in browser.requests if not url.startswith(("data:", "file:"))]
        assert outside == [] and sum(url.startswith("file:") for url in browser.requests) == 1
