"""The overview of `netagent` and `netagent --help`: the commands in the order in which users need them."""

OVERVIEW = """\
usage: netagent [OPTION…] COMMAND …

Service discovery and overlay networks for containers, without a central server.

Cluster
  agent       run the agent of this host, in the foreground
  init        start a cluster with this host
  invite      print a token that lets another host join
  join        join a cluster, with a token
  leave       leave the cluster and return the addresses that this host owns
  forget      remove hosts that are gone for good, and take over their addresses
  withdraw    withdraw the names of this host before it goes down
  members     list the hosts of the cluster

Networks and containers
  network     create, ls, inspect, rm, connect, disconnect, prune
  attach      attach a container to a network
  detach      detach it
  link        make a service resolvable under an alias in one container
  unlink      remove a link
  publish     forward a port of this host to a container
  unpublish   stop forwarding the port

Look; when something is wrong: status, then doctor, then inspect --why
  status      show the state of this host on one screen
  services    list the services and where they run   (also: service ls)
  endpoints   list the containers and addresses      (also: ps, endpoint ls)
  doctor      check this host, and compare its kernel with the records; suggests a fix for each problem
  inspect     show everything known of a name, id, address or MAC; with --why, what is missing and why
  lookup      show the DNS answer that a container gets for a name, and the reason
  ping        test connectivity between containers or hosts, and show which layer drops the packets
  version     print the versions of this program and of the agent

This host
  install     connect netagent to docker, podman, cni or systemd
  uninstall   remove what `install` wrote
  completion  print the completion script for bash, zsh or fish

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
