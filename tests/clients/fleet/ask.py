"""Fills the shipped ClickHouse table and asks it the shipped questions.

ask.py DEPLOY ROWS [FILE...]: of ROWS generated records and the lines of the
files. Prints a JSON object: the answers in their order, what was rejected, and
how long each took.
"""

import json
import re
import sys
import tempfile
import time
from pathlib import Path

from chdb import session

HERE = Path(__file__).parent


def statements(path):
    text = re.sub(r"--[^\n]*", "", path.read_text())
    return [part for part in (it.strip() for it in text.split(";")) if part]


def ask(rows, deploy, files):
    with tempfile.TemporaryDirectory() as directory:
        server = session.Session(directory)
        for statement in statements(deploy / "table.sql"):
            server.query(statement)
        begun = time.monotonic()
        server.query(f"SET param_rows = '{rows}'")
        server.query("INSERT INTO imdsfw.lines " + statements(HERE / "generate.sql")[0])
        for file in files:
            server.query(
                f"INSERT INTO imdsfw.lines SELECT line FROM file('{file}', LineAsString)"
            )
        filled = time.monotonic() - begun
        for name, value in {
            "since": "2026-11-30 00:00:00",
            "until": "2026-12-02 00:00:00",
            "key": "ASIASHAREDSHARED0000",
        }.items():
            server.query(f"SET param_{name} = '{value}'")
        answers, seconds = [], []
        for question in statements(deploy / "questions.sql"):
            begun = time.monotonic()
            answer = server.query(question, "JSONEachRow").bytes().decode()
            seconds.append(round(time.monotonic() - begun, 3))
            answers.append([json.loads(line) for line in answer.splitlines()])

        def one(query):
            return json.loads(server.query(query, "JSONEachRow").bytes())

        return {
            "filled": round(filled, 1),
            "records": one("SELECT count() AS n FROM imdsfw.records")["n"],
            "rejected": one("SELECT groupArray(line) AS lines FROM imdsfw.rejected")["lines"],
            "of_examples": one(
                "SELECT groupUniqArray(event) AS e FROM imdsfw.records WHERE host = 'i-0abc1234def567890'"
            )["e"],
            "disk": one(
                "SELECT sum(bytes_on_disk) AS n FROM system.parts WHERE database = 'imdsfw' AND active"
            )["n"],
            "seconds": seconds,
            "answers": answers,
        }


print(json.dumps(ask(int(sys.argv[2]), Path(sys.argv[1]), sys.argv[3:]), indent=1))
