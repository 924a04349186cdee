import errno
import hashlib
import http.server
import io
import re
import socket
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.data import DATASETS, download
from ctxseg.data.builders import camvid
from ctxseg.data.download import Archive, Download
from ctxseg.errors import UserError


class Host(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; the first answers to a path in `server.cut` break off after so many bytes."""

    def do_GET(self):
        server, content = self.server, self.server.files.get(self.path)
        server.asked.append((self.path, self.headers["Range"]))
        if content is None:
            return self.send_error(404)
        start = 0
        if self.headers["Range"] and server.resumes:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cuts = server.cut.get(self.path)
        self.wfile.write(content[start : cuts.pop(0) if cuts else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setattr(download, "CHUNK", 64)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        server.files, server.cut, server.asked, server.resumes = {}, {}, [], True
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def zipped(files):
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files, mode="w:gz"):
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_archives_are_unpacked_side_by_side_once(host, tmp_path):
    host.files = {
        "/a.zip": zipped({"top/a.txt": b"a"}),
        "/b.tgz": tarred({"b.txt": b"b"}),
        "/c.tar": tarred({"c.txt": b"c"}, "w"),
        "/d.mat": b"d",
    }
    into = {"/b.tgz": "top/below"}
    archives = [
        Archive(host.url + path, f"sha256:{hashlib.sha256(content).hexdigest()}", into.get(path, "."))
        for path, content in host.files.items()
    ]
    for _ in range(2):
        root = download.fetch(Download("x", archives, "top"), tmp_path)
        assert root == tmp_path / "files/top"
        assert contents(root) == {"a.txt": b"a", "below/b.txt": b"b"}
        assert contents(tmp_path).keys() == {f"files/{p}" for p in ("top/a.txt", "top/below/b.txt", "c.txt", "d.mat")}
        assert len(host.asked) == 4


@pytest.mark.parametrize("resumes", [True, False])
def test_a_broken_transfer_goes_on(resumes, host, tmp_path):
    content = np.random.default_rng(0).bytes(1000)
    host.files, host.cut, host.resumes = {"/x.bin": content}, {"/x.bin": [300, 500]}, resumes
    source = Download("x", [Archive(f"{host.url}/x.bin", f"md5:{hashlib.md5(content).hexdigest()}")])
    assert contents(download.fetch(source, tmp_path)) == {"x.bin": content}
    assert [ranges for _, ranges in host.asked] == [None, "bytes=300-", f"bytes={500}-"]


def test_a_later_run_goes_on_where_one_gave_up(host, tmp_path):
    content = bytes(range(250))
    host.files, host.cut = {"/x.bin": content}, {"/x.bin": [100] * download.TRIES}
    source = Download("x", [Archive(f"{host.url}/x.bin")])
    with pytest.raises(UserError, match=r"/x.bin: it ended after 100 of 250 bytes; the next run goes on from there$"):
        download.fetch(source, tmp_path)
    assert contents(tmp_path) == {"x.bin.part": content[:100]}
    (tmp_path / "x.bin.part").write_bytes(content)  # all is there, but nobody has said so
    assert contents(download.fetch(source, tmp_path)) == {"x.bin": content}
    assert host.asked[-1] == ("/x.bin", "bytes=250-")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


FAULTS = {
    "not there": ({}, None, r"/x.zip: the host says 404 Not Found$"),
    "other bytes": ({"/x.zip": b"1"}, "md5:0f", r"/x.zip: it has md5 c4ca\w+, but should have 0f; it is deleted$"),
    "damaged": ({"/x.zip": zipped({"a": b"a" * 99})[:80]}, None, r"/x.zip: cannot unpack it, and deleted it: .*zip"),
    "error page": ({"/x.zip": b"<html>"}, None, r"/x.zip: cannot unpack it, and deleted it: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_leave_nothing(fault, host, tmp_path):
    host.files, checksum, message = FAULTS[fault]
    with pytest.raises(UserError, match=message) as raised:
        download.fetch(Download("x", [Archive(f"{host.url}/x.zip", checksum)]), tmp_path)
    assert str(raised.value).startswith(host.url) and "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_no_network_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "PAUSE", 0)
    with pytest.raises(UserError, match=r"/x.zip: \[Errno \d+\] Connection refused; the next run goes on from there$"):
        download.fetch(Download("x", [Archive(f"http://127.0.0.1:{free_port()}/x.zip")]), tmp_path)


def test_nothing_is_written_outside(host, tmp_path):
    host.files = {"/x.tar": tarred({"../out.txt": b"x"}, "w"), "/x.zip": zipped({"../out.txt": b"x", "in.txt": b"y"})}
    with pytest.raises(UserError, match=r"/x.tar: cannot unpack it, and deleted it: .*out.txt"):
        download.fetch(Download("x", [Archive(f"{host.url}/x.tar")]), tmp_path)
    assert contents(download.fetch(Download("x", [Archive(f"{host.url}/x.zip")]), tmp_path)) == {"in.txt": b"y"}
    assert not list(tmp_path.rglob("out.txt"))


def test_a_full_disk_is_seen_beforehand(host, tmp_path, monkeypatch):
    host.files = {"/x.bin": bytes(1000)}
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 999}))
    with pytest.raises(OSError, match="no space for the 0.0 GB of http") as raised:
        download.fetch(Download("x", [Archive(f"{host.url}/x.bin")]), tmp_path)
    assert raised.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_a_data_set_is_downloaded_where_none_is_given_and_it_is_wished(street, host, tmp_path, monkeypatch):
    files = {f"top/CamVid/{name}": content for name, content in contents(street).items()}
    source = Download("camvid", [Archive(f"{host.url}/camvid.zip")], root="top/CamVid")
    monkeypatch.setattr(camvid.CamVid, "downloads", source)
    message = (
        rf"^config.data.manual_dir is not given, and no camvid is prepared in {tmp_path}; downloading failed: "
        r"http\S*/camvid.zip: the host says 404 Not Found; by hand, it wants SegNet's CamVid folder: "
    )
    with pytest.raises(UserError, match=message) as raised:
        data.load("camvid", tmp_path, download=True)
    assert "\n" not in str(raised.value)
    asked = len(host.asked)
    with pytest.raises(UserError, match="--mode=prepare downloads it"):
        data.load("camvid", tmp_path)
    assert len(host.asked) == asked

    host.files = {"/camvid.zip": zipped(files)}
    builder = data.load("camvid", tmp_path, download=True)
    assert builder.info.splits["train"].num_examples == 6
    asked = len(host.asked)
    assert data.load("camvid", tmp_path).data_dir == builder.data_dir  # prepared: not even looked for
    with Image.open(next((tmp_path / "downloads/camvid/files/top/CamVid/train").iterdir())) as file:
        assert file.size == (32, 32)
    assert len(host.asked) == asked


def test_what_the_data_sets_name_can_be_a_download():
    sources = {name: cls.downloads for name, cls in DATASETS.items() if getattr(cls, "downloads", None)}
    folders = {}
    for name, source in sources.items():
        assert folders.setdefault(source.name, source) == source, f"{name} shares a folder with another data set"
        for url, checksum, into in source.archives:
            assert re.fullmatch(r"https?://\S+/[\w.-]+", url)
            if checksum:
                algorithm, digest = checksum.split(":")
                assert len(bytes.fromhex(digest)) == hashlib.new(algorithm).digest_size
            assert not into.startswith(("/", ".."))
