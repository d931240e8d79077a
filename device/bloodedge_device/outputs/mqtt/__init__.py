"""Results to an MQTT broker: at least once and in order, from an outbox that outlives the daemon."""
