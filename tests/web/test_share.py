"""The page over TLS, at an address that was given."""

import json
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from ranking_server import Server, item  # type: ignore[import-not-found]

from ventaja.cli import main
from ventaja.rankings import Store

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl to make a certificate with"
)


@pytest.fixture
def pem(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_a_page_on_a_network_is_secure(tmp_path, pem):
    certificate, key = pem
    with Store(tmp_path / "r.db") as store:
        store.add([item("one")])
    server = Server(tmp_path / "r.db")
    share = ["--share.address", "127.0.0.1", "--share.certificate", str(certificate), "--share.key", str(key)]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ventaja",
            "rank",
            str(server.store),
            "--port",
            str(server.port),
            *server.flags,
            *share,
        ],
        stdout=subprocess.DEVNULL,
    )
    url = f"https://127.0.0.1:{server.port}"
    trust = ssl.create_default_context(cafile=str(certificate))
    try:
        request = urllib.request.Request(
            f"{url}/enter",
            json.dumps({"secret": server.secrets["ana"]}).encode(),
            {"Content-Type": "application/json", "Origin": url},
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=5, context=trust) as answer:
                    assert "Secure" in answer.headers["Set-Cookie"]
                    assert answer.headers["Strict-Transport-Security"]
                break
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionError) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


def test_a_key_of_another_certificate_is_told(tmp_path, pem, capsys):
    with Store(tmp_path / "r.db") as store:
        store.add([item("one")])
    (tmp_path / "other.pem").write_text("no key")
    share = [
        "--share.address",
        "127.0.0.1",
        "--share.certificate",
        str(pem[0]),
        "--share.key",
        str(tmp_path / "other.pem"),
    ]
    assert main(["rank", str(tmp_path / "r.db"), *share]) == 2
    assert "cannot be used" in capsys.readouterr().err
