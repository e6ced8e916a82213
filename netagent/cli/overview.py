"""What `netagent` and `netagent --help` show: the commands in the order in which people need them."""

OVERVIEW = """\
usage: netagent [OPTION…] COMMAND …

Service discovery and overlay networks for containers, without a central server.

Cluster
  agent       run the agent of this host, in the foreground
  init        start a cluster with this host
  invite      print a token that lets another host in
  join        enter a cluster
  leave       leave the cluster, giving back what this host owns
  forget      hosts are gone for good: take over what they owned
  withdraw    take this host's names back, because it is about to go down
  members     the hosts of the cluster

Networks and containers
  network     create, ls, inspect, rm, connect, disconnect, prune
  attach      put a container into a network
  detach      take it out again
  link        make a service known under an alias inside one container
  unlink      the reverse
  publish     have a port of this host lead to a container
  unpublish   the reverse

Look; when something is wrong: status, then doctor, then inspect --why
  status      this host in one screen
  services    the services and where they are        (also: service ls)
  endpoints   the containers and their addresses     (also: ps, endpoint ls)
  doctor      is this host fit, has its kernel what the records say: with a fix for each finding
  inspect     everything known of a name, id, address or MAC; with --why, what it made and what is missing
  lookup      the answer that a container gets for a name
  ping        does a packet get from a container to another, or from this host to another; where it stays
  version     versions of this program and of the agent

This host
  install     let docker, podman or cni know of netagent; or systemd
  uninstall   the reverse
  completion  completion for bash, zsh or fish

Options, before or after the command
  -o FORM        table, wide, json, ndjson or name     (--json is short for -o json)
  --socket PATH  the agent to ask                      (or NETAGENT_SOCKET)
  --debug        show a traceback when something goes wrong
  -h, --help     this help; `netagent COMMAND --help` has examples

First steps
  sudo netagent agent &                                       on every host
  sudo netagent init; sudo netagent invite                    on the first
  sudo netagent join                                          on the others, with the token
  sudo netagent network create app
  sudo netagent attach netns:web1 --network app --service web
"""
