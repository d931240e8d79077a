"""Results and reports sent to others: MQTT, Home Assistant, Prometheus, the fleet's server."""
