"""Container Network Interface: what kubelet's runtimes, nerdctl, Nomad and Multus speak."""
