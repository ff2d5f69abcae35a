"""`python -m iap_node.conformance > docs/conformance.md` writes the statement anew; a test says when that is due."""

import sys

from iap_node.conformance.statement import conformance_statement

sys.stdout.write(conformance_statement())
