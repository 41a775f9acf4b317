"""Asks botocore where it runs, and as whom."""

import json

from botocore.session import Session
from botocore.utils import InstanceMetadataRegionFetcher

session = Session()
credentials = session.get_credentials()
print(json.dumps({
    "region": InstanceMetadataRegionFetcher().retrieve_region(),
    "credentials": credentials and credentials.method,
}))
