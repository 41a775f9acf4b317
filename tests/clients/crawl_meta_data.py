"""Reads meta-data/ as cloud-init does, and nothing beside it."""

import json
import logging

from cloudinit.sources import DataSourceEc2 as ec2
from cloudinit.sources.helpers import ec2 as helper

logging.basicConfig(level=logging.WARNING)
settings = {"datasource": {"Ec2": {"metadata_urls": ["http://169.254.169.254"]}}}
source = ec2.DataSourceEc2(settings, distro=None, paths=None)
# Otherwise told from the firmware, which the test's host does not have.
source._cloud_name = ec2.CloudNames.AWS
assert source.wait_for_metadata_service()
found = helper.get_instance_metadata(
    source.get_metadata_api_version(),
    source.metadata_address,
    headers_cb=source._get_headers,
    headers_redact=ec2.AWS_TOKEN_REDACT,
    exception_cb=source._refresh_stale_aws_token_cb,
)
print(json.dumps(found, indent=1, sort_keys=True, default=bytes.decode))
