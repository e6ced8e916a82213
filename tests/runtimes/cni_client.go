// A CNI runtime in few lines: reads a list of plug-ins and has libcni, the library that all runtimes use, call them.
//
//	cni-client add|check|del CONFLIST PATH CACHE CONTAINER NETNS [ARG=VALUE ...]
//
// PATH is where plug-ins are, CACHE where libcni keeps results, as a runtime does, for check and del.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	if err := run(os.Args[1], os.Args[2:6], os.Args[6], os.Args[7:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(verb string, where []string, netns string, args []string) error {
	list, err := libcni.ConfListFromFile(where[0])
	if err != nil {
		return err
	}
	cni := libcni.NewCNIConfigWithCacheDir(strings.Split(where[1], ":"), where[2], nil)
	container := &libcni.RuntimeConf{ContainerID: where[3], NetNS: netns, IfName: "eth0"}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		if key == "portMappings" {
			var mappings []map[string]any
			if err := json.Unmarshal([]byte(value), &mappings); err != nil {
				return err
			}
			container.CapabilityArgs = map[string]any{key: mappings}
			continue
		}
		container.Args = append(container.Args, [2]string{key, value})
	}
	ctx := context.Background()
	switch verb {
	case "add":
		result, err := cni.AddNetworkList(ctx, list, container)
		if err != nil {
			return err
		}
		return result.PrintTo(os.Stdout)
	case "check":
		return cni.CheckNetworkList(ctx, list, container)
	case "del":
		return cni.DelNetworkList(ctx, list, container)
	case "validate":
		_, err := cni.ValidateNetworkList(ctx, list)
		return err
	}
	return fmt.Errorf("%s is no verb", verb)
}
