// A HashiCorp memberlist node for the interop tests: joins a cluster, prints what it sees as JSON lines, obeys
// commands on its standard input ("leave", "members"). Built with Debian's golang-github-hashicorp-memberlist-dev.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

type event struct {
	Event   string `json:"event"`
	Node    string `json:"node,omitempty"`
	Address string `json:"address,omitempty"`
	Meta    string `json:"meta,omitempty"`
	Error   string `json:"error,omitempty"`
}

var printing sync.Mutex

func report(kind string, node *memberlist.Node, err error) {
	line := event{Event: kind}
	if node != nil {
		line.Node, line.Address, line.Meta = node.Name, node.Address(), string(node.Meta)
	}
	if err != nil {
		line.Error = err.Error()
	}
	printing.Lock()
	defer printing.Unlock()
	json.NewEncoder(os.Stdout).Encode(line)
}

type watcher struct{}

func (watcher) NotifyJoin(node *memberlist.Node)   { report("join", node, nil) }
func (watcher) NotifyLeave(node *memberlist.Node)  { report("leave", node, nil) }
func (watcher) NotifyUpdate(node *memberlist.Node) { report("update", node, nil) }

type meta struct{ text string }

func (m meta) NodeMeta(int) []byte           { return []byte(m.text) }
func (meta) NotifyMsg([]byte)                {}
func (meta) GetBroadcasts(int, int) [][]byte { return nil }
func (meta) LocalState(bool) []byte          { return []byte("state that nobody wants") }
func (meta) MergeRemoteState([]byte, bool)   {}

func main() {
	name := flag.String("name", "go", "")
	bind := flag.String("bind", "127.0.0.1", "")
	port := flag.Int("port", 7956, "")
	join := flag.String("join", "", "")
	label := flag.String("label", "", "")
	key := flag.String("key", "", "in hex")
	text := flag.String("meta", "from go", "")
	flag.Parse()

	config := memberlist.DefaultLANConfig()
	config.Name, config.BindAddr, config.BindPort, config.AdvertisePort = *name, *bind, *port, *port
	config.Label = *label
	config.SecretKey, _ = hex.DecodeString(*key)
	config.Events, config.Delegate = watcher{}, meta{*text}
	config.Logger = log.New(io.Writer(os.Stderr), "", log.Lmicroseconds)
	list, err := memberlist.Create(config)
	if err != nil {
		log.Fatal(err)
	}
	report("started", list.LocalNode(), nil)
	if *join != "" {
		_, err := list.Join(strings.Split(*join, ","))
		report("joined", nil, err)
	}
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		switch commands.Text() {
		case "members":
			for _, node := range list.Members() {
				report("member", node, nil)
			}
			report("members-end", nil, nil)
		case "leave":
			report("left", nil, list.Leave(5*time.Second))
			time.Sleep(500 * time.Millisecond)
			list.Shutdown()
			return
		}
	}
}
