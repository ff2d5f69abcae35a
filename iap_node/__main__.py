"""`python -m iap_node` is `iap-node`."""

from iap_node.cli import main

if __name__ == "__main__":
    main()
