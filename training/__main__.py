"""`python -m training`: the commands of `training.cli`, which are also installed as `iap-train`."""

from training.cli import app, main

__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
