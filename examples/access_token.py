"""Print an access token of the client `deep_mnist_client` on this machine's stack."""

import json
import os
import subprocess
import sys

import requests

GATEWAY = f"http://127.0.0.1:{os.environ.get('SELDON_REST_PORT', '8080')}"
KEYS = ("seldon-cli", "--quiet", "keys", "--client-name", "deep_mnist_client", "--scope", "all")

[shown] = json.loads(subprocess.check_output(KEYS))
response = requests.post(
    f"{GATEWAY}/token",
    data={"grant_type": "client_credentials"},
    auth=(shown["key"], shown["secret"]),
    timeout=5,
)
response.raise_for_status()
sys.stdout.write(response.json()["access_token"])
