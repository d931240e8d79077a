"""What went wrong between this board and the broker, in sentences."""

import socket
import ssl

from bloodedge_device.settings.sections import MqttSettings

UNSUPPORTED_VERSION = 132
"""MQTT 5.0, table 3-1; paho has it also for 3.1.1's return code 1, unacceptable protocol level."""


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
