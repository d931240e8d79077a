"""What the daemon is doing at one moment, as plain data for the page, MQTT, Prometheus and the fleet."""
