"""Holds OCSF events on standard input, one a line, against the schema that OCSF
publishes for the version they name: every attribute is one of the class, of an
object or of a profile they name, everything required is there, and each caption
is that of its number. Prints what is wrong, and exits 1 if anything is.
"""

import json
import sys
from functools import cache

from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

VERSION = "1.8.0"
PUBLISHED = get_ocsf_schema(version=VERSION)
SCHEMAS = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=VERSION))


@cache
def validator(class_uid, profiles):
    name = SCHEMAS.lookup_class_name_from_uid(class_uid)
    schema = SCHEMAS.get_class_schema(class_name=name, profiles=list(profiles))
    Draft202012Validator.check_schema(schema)
    return name, Draft202012Validator(schema)


def captions(name, event):
    attributes = PUBLISHED["classes"][name]["attributes"]
    for attribute, value in event.items():
        known = attributes.get(attribute, {})
        sibling, enum = known.get("sibling"), known.get("enum")
        if not enum or not sibling or sibling not in event or value == 99:
            continue
        caption = enum.get(str(value), {}).get("caption")
        if event[sibling] != caption:
            yield f"{sibling} is {event[sibling]!r}, and {attribute} {value} is {caption!r}"


def errors(event):
    metadata = event["metadata"]
    if metadata["version"] != VERSION:
        yield f"of version {metadata['version']}"
    name, held = validator(event["class_uid"], tuple(metadata["profiles"]))
    for error in held.iter_errors(event):
        yield f"{'/'.join(map(str, error.path))}: {error.message[:300]}"
    if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
        yield "type_uid is not of class and activity"
    yield from captions(name, event)


found, events = 0, 0
for line in sys.stdin:
    event = json.loads(line)
    events += 1
    for error in errors(event):
        found += 1
        print(f"{event['metadata'].get('event_code')}: {error}")
print(f"{events} events, {found} errors")
sys.exit(found > 0)
