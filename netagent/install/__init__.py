"""The files that systemd, Docker, Podman and CNI read: `files` lists them, `installer` writes and removes them."""
