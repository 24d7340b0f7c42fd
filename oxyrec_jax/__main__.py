"""The `oxyrec` command, also as `python -m oxyrec_jax`."""

from oxyrec_jax.huge_pages import restart_with_huge_pages


def main() -> None:
    """Runs the command line with 2 MiB memory pages where the system has them."""
    restart_with_huge_pages()
    from oxyrec_jax import cli  # after the restart, which forgets what is imported
    cli.main()


if __name__ == "__main__":
    main()
