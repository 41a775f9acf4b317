"""Asks botocore for credentials, as any program that uses it does."""

import json
import time

from botocore.session import Session

session = Session()
session.get_component("credential_provider")
start = time.monotonic()
credentials = session.get_credentials()
seconds = time.monotonic() - start
print(json.dumps({
    "seconds": seconds,
    "credentials": credentials and {
        "provider": credentials.method,
        "keys": credentials.get_frozen_credentials(),
        "expiration": str(credentials._expiry_time),
    },
}))
