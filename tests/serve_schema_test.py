"""Schemathesis: requests made from /openapi.json, right and wrong, are answered as the document says."""

import pathlib
import subprocess
import sys

from served import Server

# positive_data_acceptance is left out: the schema cannot say that prompt and answer together fit the context.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection,unsupported_method"


def test_the_document_and_the_server_agree():
    with Server("--mock", "--max-model-len", 256) as server:
        done = subprocess.run(
            [pathlib.Path(sys.executable).parent / "st", "run", server.url + "/openapi.json", "--checks", CHECKS,
             "--max-examples", "8", "--phases", "examples,coverage,fuzzing", "--seed", "1",
             "--request-timeout", "20", "--suppress-health-check", "all", "--no-color"],
            capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert server.get("/health")[0] == 200
        assert server.stop() == 0
