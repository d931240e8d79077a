"""Making and examining OpenVINO networks."""
