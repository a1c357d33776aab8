"""TLS of the gRPC services: who is let in, what is refused, and certificates that are replaced while the server runs."""
import datetime
import ipaddress
import os
import signal
import socket
import ssl

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import PATIENCE, wait_until, write_keys
from rpc import Client
from test_pages import go_on, reason, reasons_ticket, tickets

GRPC = ("--grpc", "127.0.0.1:0")
OPTIONS = [("grpc.enable_retries", 0)]


def pem(cert):
    return cert.public_bytes(serialization.Encoding.PEM)


class Authority:
    def __init__(self, folder, name):
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.cert = self.sign(name, self.key.public_key(), ca=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(pem(self.cert))

    def sign(self, name, key, ca=False):
        now = datetime.datetime.now(datetime.timezone.utc)
        who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        b = x509.CertificateBuilder().subject_name(who).issuer_name(who if ca else self.cert.subject).public_key(key).serial_number(x509.random_serial_number())
        b = b.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=2))
        b = b.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if not ca:
            b = b.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]), critical=False)
        return b.sign(self.key, hashes.SHA256())

    def issue(self, name, to=None):
        """Certificate and key in files, each put in its place at once."""
        key = ec.generate_private_key(ec.SECP256R1())
        files = (to or self.folder / f"{name}.crt", (to or self.folder / f"{name}.crt").with_suffix(".key"))
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        for path, data in zip(files, (pem(self.sign(name, key.public_key())), secret)):
            new = path.with_suffix(".new")
            new.write_bytes(data)
            os.replace(new, path)
        return files


@pytest.fixture
def ca(tmp_path):
    return Authority(tmp_path, "ca")


def tls(files, *more):
    return (*GRPC, "--grpc-tls-cert", str(files[0]), "--grpc-tls-key", str(files[1]), *more)


def credentials(ca, client=None):
    cert, key = (client[0].read_bytes(), client[1].read_bytes()) if client else (None, None)
    return grpc.ssl_channel_credentials(ca.file.read_bytes(), key, cert)


@pytest.fixture
def dial():
    made = []

    def make(server, ca, client=None, key=None):
        made.append(Client(server, key, credentials(ca, client)))
        return made[-1]

    yield make
    for c in made:
        c.close()


def is_refused(server, creds):
    target = Client.target_of(server)
    with grpc.secure_channel(target, creds, options=OPTIONS) if creds else grpc.insecure_channel(target, options=OPTIONS) as channel:
        with pytest.raises(grpc.RpcError) as e:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        return e.value.code() == grpc.StatusCode.UNAVAILABLE


def serial_of(server):
    """Of the certificate that a new connection is shown."""
    host, port = Client.target_of(server).rsplit(":", 1)
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as raw, context.wrap_socket(raw) as s:
        return x509.load_der_x509_certificate(s.getpeercert(binary_form=True)).serial_number


def test_calls_over_tls(make_server, ca, dial, tmp_path):
    s = make_server(*tls(ca.issue("server")))
    c = dial(s, ca)
    want = s.http.post("/v1/completions", json={"prompt": "One, two, three,", "max_tokens": 24, "temperature": 0}).json()["choices"][0]["text"]
    assert c.generate("One, two, three,", max_tokens=24)[0] == want
    long = {"prompt": {"text": "word " * 2000}, "max_tokens": 2}  # more than a record each way
    assert list(c.call("sparing.v1.Generation/Generate", long))[-1].finish.prompt_tokens > 1000
    other = Authority(tmp_path, "other")
    assert is_refused(s, credentials(other))  # the client does not trust it
    assert is_refused(s, None)                # no TLS
    assert c.generate("One, two, three,", max_tokens=24)[0] == want


@pytest.mark.parametrize("alpn", [None, ["http/1.1"]])
def test_another_protocol_is_refused(make_server, ca, dial, alpn):
    s = make_server(*tls(ca.issue("server")))
    host, port = Client.target_of(s).rsplit(":", 1)
    context = ssl._create_unverified_context()
    if alpn:
        context.set_alpn_protocols(alpn)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as raw:
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            with context.wrap_socket(raw, suppress_ragged_eofs=False) as t:
                t.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                while t.recv(4096):
                    pass
                raise EOFError
    assert dial(s, ca).generate("still here", max_tokens=1)[1].completion_tokens == 1


def test_old_protocols_are_refused(make_server, ca):
    s = make_server(*tls(ca.issue("server")))
    host, port = Client.target_of(s).rsplit(":", 1)
    context = ssl._create_unverified_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as raw, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(raw)


def test_clients_show_a_certificate(make_server, ca, dial, tmp_path):
    people, strangers = Authority(tmp_path, "people"), Authority(tmp_path, "strangers")
    s = make_server(*tls(ca.issue("server"), "--grpc-tls-client-ca", str(people.file)))
    assert dial(s, ca, people.issue("ann")).generate("One,", max_tokens=2)[1].completion_tokens == 2
    assert is_refused(s, credentials(ca))
    assert is_refused(s, credentials(ca, strangers.issue("eve")))
    keys = write_keys(tmp_path / "keys", {"k-ann": "ann"})
    both = make_server(*tls(ca.issue("server"), "--grpc-tls-client-ca", str(people.file), "--keys", keys))  # a certificate is no key
    c = dial(both, ca, people.issue("ann"))
    with pytest.raises(grpc.RpcError) as e:
        c.generate("One,", max_tokens=2)
    assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED
    c.key = "k-ann"
    assert c.generate("One,", max_tokens=2)[1].completion_tokens == 2


def test_what_cannot_be_used_is_told_at_the_start(make_server, ca, tmp_path):
    cert, key = map(str, ca.issue("server"))
    other = str(ca.issue("other")[1])
    junk = tmp_path / "junk"
    junk.write_text("no certificate")
    on = ("--grpc-tls-cert", cert, "--grpc-tls-key", key)
    for opts, what in ((("--grpc-tls-cert", cert), "grpc-tls-key"), (("--grpc-tls-key", key), "grpc-tls-cert"), (("--grpc-tls-client-ca", cert), "grpc-tls-cert"),
                       (("--grpc-tls-cert", cert, "--grpc-tls-key", other), "key .*mismatch"), (("--grpc-tls-cert", str(junk), "--grpc-tls-key", key), "certificate .*junk"),
                       (("--grpc-tls-cert", cert, "--grpc-tls-key", str(tmp_path / "none")), "key .*none"), ((*on, "--grpc-tls-client-ca", str(junk)), "CA of clients .*junk"),
                       (("--peers", "http://127.0.0.1:1"), "peers"), (("--peers", "127.0.0.1"), "peers")):
        with pytest.raises(RuntimeError, match=what):
            make_server(*GRPC, *opts)
    with pytest.raises(RuntimeError, match="--grpc is needed"):
        make_server(*on)
    with pytest.raises(RuntimeError, match="loopback only"):
        make_server("--grpc", "0.0.0.0:0", *on)  # TLS alone says nothing about who calls
    make_server("--grpc", "0.0.0.0:0", *on, "--grpc-tls-client-ca", str(ca.file))


def test_certificates_are_replaced_while_a_stream_runs(make_server, ca, dial):
    files = ca.issue("server")
    s = make_server(*tls(files))
    c = dial(s, ca)
    first = serial_of(s)
    call = c.call("sparing.v1.Generation/Generate", {"prompt": {"text": "Count on:"}, "max_tokens": 3000, "ignore_end": True})
    assert next(call).text
    ca.issue("server", files[0])
    wait_until(lambda: serial_of(s) != first, "the new certificate")  # nobody told the server
    second = serial_of(s)
    assert dial(s, ca).generate("One,", max_tokens=2)[1].completion_tokens == 2
    files[1].write_text("half a k")
    s.proc.send_signal(signal.SIGHUP)
    s.wait_log("the old ones are in force")
    assert serial_of(s) == second
    ca.issue("server", files[0])
    s.proc.send_signal(signal.SIGHUP)
    wait_until(lambda: serial_of(s) not in (first, second), "the third certificate")
    assert list(call)[-1].finish.completion_tokens == 3000  # it knew of none of this


def test_pages_over_tls(make_server, ca, dial, tmp_path):
    mine = ca.issue("server")
    wrong = Authority(tmp_path, "wrong")
    both = (*tls(mine), "--grpc-tls-client-ca", str(ca.file))
    a = make_server(*both, "--role", "reasoning")
    ca_client = dial(a, ca, mine)
    r = reason(ca_client)
    target = Client.target_of(a)
    texts = []
    for opts, end in ((("--peers", f"grpcs://{target}", "--peer-ca", str(ca.file)), "whole"), (("--peers", f"grpcs://{target}", "--peer-ca", str(wrong.file)), "broken"),
                      (("--peers", f"grpcs://{target}"), "broken"), (("--peers", target), "broken")):  # a CA that did not sign it; the system's; no TLS
        b = make_server(*both, *opts)
        cb = dial(b, ca, mine)
        text, finish = go_on(cb, r, reasons_ticket(cb, r))
        texts.append(text)
        assert tickets(b) == {"whole": 0, "broken": 0, "refused": 0} | {end: 1}
        assert finish.cached_tokens == (r.ticket.n_tokens if end == "whole" else 0)
    assert len(set(texts)) == 1
    bare = make_server(*GRPC, "--peers", f"grpcs://{target}", "--peer-ca", str(ca.file))  # it has no certificate to show
    cb = Client(bare)
    assert go_on(cb, r, reasons_ticket(cb, r))[0] == texts[0] and tickets(bare)["broken"] == 1
    assert reason(ca_client).token_ids == r.token_ids  # none of them holds the server up
    cb.close()


def test_connections_that_do_not_shake_hands(make_server, ca, dial):
    """They take a place each and nothing else."""
    s = make_server(*tls(ca.issue("server")))
    host, port = Client.target_of(s).rsplit(":", 1)
    idle = [socket.create_connection((host, int(port))) for _ in range(50)]
    for i, x in enumerate(idle):
        x.sendall((b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" + b"\x00" * 600)[i % 4])
    assert dial(s, ca).generate("still here", max_tokens=1)[1].completion_tokens == 1
    for x in idle:
        x.close()
