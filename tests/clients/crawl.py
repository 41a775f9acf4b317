"""Crawls the metadata service with cloud-init's data source for EC2."""

import json
import logging

from cloudinit.sources import DataSourceEc2 as ec2

logging.basicConfig(level=logging.WARNING)
settings = {"datasource": {"Ec2": {"metadata_urls": ["http://169.254.169.254"]}}}
source = ec2.DataSourceEc2(settings, distro=None, paths=None)
# Otherwise told from the firmware, which the test's host does not have.
source._cloud_name = ec2.CloudNames.AWS
print(json.dumps(source.crawl_metadata(), indent=1, sort_keys=True, default=bytes.decode))
