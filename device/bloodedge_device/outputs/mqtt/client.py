"""A connection to the broker as paho makes it: identity, will, login and TLS; and in sentences what went wrong."""

import select
import socket
import ssl
from pathlib import Path
from time import monotonic

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bloodedge.files import read_text
from bloodedge_device.settings.sections import MqttSettings

NEWEST, OLDER = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311

UNSUPPORTED_VERSION = 132
"""MQTT 5.0, table 3-1; paho has it also for 3.1.1's return code 1, unacceptable protocol level."""

ANSWER_WITHIN_S = 4.0
"""For the broker to take a connection, and again to answer it."""


class ConnectionLost(Exception):  # noqa: N818  # it says what happened
    """The connection ended or never began; the message is a sentence for people."""


def base_topic(settings: MqttSettings) -> str:
    """What this board's topics begin with."""
    return f"{settings.topic}/{settings.board}/"


def new_client(settings: MqttSettings, version: MQTTProtocolVersion) -> Client:
    """A client that is not connected; ConnectionLost when its password or certificates cannot be read."""
    client = Client(
        CallbackAPIVersion.VERSION2,
        f"bloodedge-{settings.board}",
        protocol=version,
        reconnect_on_failure=False,  # else paho tries MQTT 3.1 by itself
    )
    client.connect_timeout = ANSWER_WITHIN_S
    client.will_set(f"{base_topic(settings)}availability", b"offline", qos=1, retain=True)
    if settings.username is not None:
        client.username_pw_set(settings.username, _password(settings.password_file))
    if settings.tls:
        client.tls_set_context(_tls(settings))
    return client


def describing(payload: bytes, message: int | None) -> Properties:
    """MQTT 5's properties of a message: what it holds, and for one of the outbox its id, to know a repetition by."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ContentType = "application/json" if payload.startswith(b"{") else "text/plain"
    if message is not None:
        properties.UserProperty = ("id", str(message))
    return properties


def say_goodbye(client: Client, version: MQTTProtocolVersion) -> None:
    """End the connection so that the broker publishes "offline" for this board."""
    if client.is_connected() and version is NEWEST:  # an older goodbye would keep the will from being sent
        client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
    give_up_s = monotonic() + 1.0
    while (connection := client.socket()) is not None:
        if not client.want_write() or monotonic() > give_up_s:
            connection.close()
            return
        select.select([], [connection], [], 0.1)
        client.loop_write()


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return read_text(path).partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConnectionLost(
            f"mqtt.password_file: {path} cannot be read ({_short(error)}); correct the path or its mode."
        ) from error


def _tls(settings: MqttSettings) -> ssl.SSLContext:
    files = {"ca": settings.ca, "certificate": settings.certificate, "key": settings.key}
    for name, path in files.items():
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            raise ConnectionLost(
                f"mqtt.{name}: {path} cannot be read ({_short(error)}); correct the path or its mode."
            ) from error
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key)
    except ssl.SSLError as error:
        raise ConnectionLost(
            f"The certificates for {broker_name(settings)} cannot be used ({error.reason or error}); check mqtt.ca,"
            " mqtt.certificate and mqtt.key: PEM files, the key without a passphrase."
        ) from error
    return context


def _short(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def broker_name(settings: MqttSettings) -> str:
    """How sentences name the broker."""
    return f"the broker {settings.host}:{settings.port}"


def why_unreachable(error: OSError, where: str) -> str:
    """A sentence on why the broker cannot be reached."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"The certificate of {where} is not trusted ({error.verify_message.rstrip('.')}); check mqtt.ca, and"
            " that mqtt.host is a name in the certificate."
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS with {where} failed ({error.reason or error}); check that mqtt.port is the broker's port for TLS."
    if isinstance(error, socket.gaierror):
        return f"The name of {where} could not be resolved; check mqtt.host and the network."
    if isinstance(error, ConnectionRefusedError):
        return f"No program listens at {where}; check mqtt.host and mqtt.port, or start the broker."
    if isinstance(error, TimeoutError):
        return f"{where} does not answer; check mqtt.host and the network."
    return f"{where} cannot be reached ({error.strerror or error}); check the network."


def why_refused(code: int, reason: str, settings: MqttSettings) -> str:
    """A sentence on a CONNACK that says no."""
    where = broker_name(settings)
    if code == UNSUPPORTED_VERSION:
        return f"{where} does not support this version of MQTT; trying the other one (MQTT 5 or 3.1.1)."
    if code in {134, 135, 140}:  # MQTT 5.0, table 3-1: bad user name or password, not authorized, bad method
        return f"{where} rejects the login ({reason}); correct mqtt.username and mqtt.password_file."
    return f"{where} refuses the connection ({reason}); see its log."


def why_ended(code: int, reason: str, settings: MqttSettings) -> str:
    """A sentence on a DISCONNECT that the broker sent."""
    where = broker_name(settings)
    if code == 142:  # MQTT 5.0, table 3-13: session taken over
        return f'Another board is connected as "{settings.board}" at {where}; give each its own mqtt.board.'
    return f"{where} ended the connection ({reason}); it is tried again."


def why_lost(where: str, *, accepted: bool) -> str:
    """A sentence on a connection that ended without a word from the broker."""
    if accepted:
        return f"The connection to {where} was lost; it is tried again."
    return (
        f"{where} ended the connection before it answered; see its log: it may expect TLS (mqtt.tls), or this"
        " board's certificate (mqtt.certificate)."
    )
