from __future__ import annotations

import ssl

from cryptography import x509

from protocols.extproc.certificate import NAME, self_signed, self_signed_context


def test_certificate_is_its_own_issuer_and_new_each_time() -> None:
    certificate, key = self_signed()
    read = x509.load_pem_x509_certificate(certificate)
    read.verify_directly_issued_by(read)
    assert b"PRIVATE KEY" in key
    assert self_signed()[0] != certificate


def test_context_serves_http2_to_who_does_not_verify() -> None:
    server, client = self_signed_context(), ssl.create_default_context()
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.set_alpn_protocols(["h2", "http/1.1"])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].selected_alpn_protocol() == "h2"
    certificate = x509.load_der_x509_certificate(ends[0].getpeercert(binary_form=True) or b"")
    assert certificate.subject.rfc4514_string() == f"CN={NAME}"
