// snapbench loads a snapshotter over its socket and prints one line of JSON for each operation of each phase.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/snapshots"
	"peers/dial"
)

const (
	chainDepth = 10
	target     = "containerd.io/snapshot.ref"
	cri        = "containerd.io/snapshot/cri."
)

var (
	address = flag.String("address", "", "unix socket")
	phases  = flag.String("phases", "", "comma list of cycle, stat, list, fill, hit, miss; on top of a chain of 10")
	count   = flag.Int("n", 1000, "operations; fill: snapshots to be there in the end")
	clients = flag.Int("clients", 1, "operations at one time")
	digests = flag.String("digests", "", "file with a layer's digest (hex) a line; hit: layers that are published")
	skip    = flag.Int("skip", 0, "lines of that file to skip")

	run = fmt.Sprintf("%x", time.Now().UnixNano())
	ctx = namespaces.WithNamespace(context.Background(), "bench")
	sn  snapshots.Snapshotter
)

// times of one phase, by operation in the order of their first use.
type times struct {
	sync.Mutex
	order []string
	taken map[string][]time.Duration
}

func (t *times) add(operation string, taken time.Duration) {
	t.Lock()
	defer t.Unlock()
	if _, known := t.taken[operation]; !known {
		t.order = append(t.order, operation)
	}
	t.taken[operation] = append(t.taken[operation], taken)
}

// measure adds the time of a call; an error ends the program, for numbers of failed calls say nothing.
func (t *times) measure(operation string, call func() error) {
	began := time.Now()
	err := call()
	t.add(operation, time.Since(began))
	if err != nil {
		log.Fatalf("%s: %v", operation, err)
	}
}

func (t *times) print(phase string, wall time.Duration) {
	for _, operation := range t.order {
		taken := t.taken[operation]
		sort.Slice(taken, func(i, j int) bool { return taken[i] < taken[j] })
		line, err := json.Marshal(map[string]any{
			"phase": phase, "operation": operation, "clients": *clients, "count": len(taken),
			"median":     taken[len(taken)/2].Seconds(),
			"p95":        taken[len(taken)*95/100].Seconds(),
			"per_second": float64(len(taken)) / wall.Seconds(),
		})
		must(err)
		fmt.Println(string(line))
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// parallel calls work(0) to work(total-1), so many at one time as there are clients.
func parallel(total int, work func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for c := 0; c < *clients; c++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := int(next.Add(1)) - 1; i < total; i = int(next.Add(1)) - 1 {
				work(i)
			}
		}()
	}
	all.Wait()
}

// chain makes committed snapshots one on the other, unless they are there, and answers the topmost.
func chain() string {
	parent := ""
	for i := 1; i <= chainDepth; i++ {
		name := fmt.Sprintf("chain-%d", i)
		if _, err := sn.Stat(ctx, name); err != nil {
			_, err := sn.Prepare(ctx, "making-"+name, parent)
			must(err)
			must(sn.Commit(ctx, name, "making-"+name))
		}
		parent = name
	}
	return parent
}

func cycle(t *times) {
	parent := chain()
	parallel(*count, func(i int) {
		key, name := fmt.Sprintf("active-%s-%d", run, i), fmt.Sprintf("committed-%s-%d", run, i)
		began := time.Now()
		t.measure("Prepare", func() error { _, err := sn.Prepare(ctx, key, parent); return err })
		t.measure("Mounts", func() error {
			mounts, err := sn.Mounts(ctx, key)
			if err == nil && (len(mounts) != 1 || mounts[0].Type != "overlay") {
				return fmt.Errorf("not one overlay mount: %v", mounts)
			}
			return err
		})
		t.measure("Commit", func() error { return sn.Commit(ctx, name, key) })
		t.measure("Remove", func() error { return sn.Remove(ctx, name) })
		t.add("whole cycle", time.Since(began))
	})
}

func names(filters ...string) []string {
	var found []string
	must(sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		found = append(found, info.Name)
		return nil
	}, filters...))
	return found
}

func stat(t *times) {
	known := names()
	parallel(*count, func(i int) {
		t.measure("Stat", func() error { _, err := sn.Stat(ctx, known[i*7919%len(known)]); return err })
	})
}

func list(t *times) {
	known := len(names())
	parallel(*count, func(i int) {
		t.measure("List", func() error {
			if found := len(names()); found != known {
				return fmt.Errorf("%d snapshots instead of %d", found, known)
			}
			return nil
		})
	})
}

func fill(t *times) {
	parent, known := chain(), len(names())
	parallel(*count-known, func(i int) {
		key := fmt.Sprintf("filling-%d", known+i)
		t.measure("Prepare", func() error { _, err := sn.Prepare(ctx, key, parent); return err })
		t.measure("Commit", func() error { return sn.Commit(ctx, fmt.Sprintf("fill-%d", known+i), key) })
	})
}

// remote asks for published layers, or for others, as a pull does.
func remote(t *times, published bool) {
	layers := readDigests()
	parallel(*count, func(i int) {
		key, wanted := fmt.Sprintf("remote-%s-%d", run, i), fmt.Sprintf("target-%s-%d", run, i)
		digest := fmt.Sprintf("sha256:%064x", i+1)
		if published {
			digest = "sha256:" + layers[i]
		}
		labels := snapshots.WithLabels(map[string]string{
			target:               wanted,
			cri + "image-ref":    "registry.example.org/image:latest",
			cri + "layer-digest": digest,
			cri + "image-layers": digest,
		})
		t.measure("Prepare", func() error {
			_, err := sn.Prepare(ctx, key, "", labels)
			if !published {
				return err
			}
			if !errdefs.IsAlreadyExists(err) {
				return fmt.Errorf("not served: %v", err)
			}
			return nil
		})
		if published {
			// The look-up that containerd does next.
			t.measure("List of one", func() error {
				key = names(fmt.Sprintf("labels.%q==%s,parent==%q", target, wanted, ""))[0]
				return nil
			})
		}
		t.measure("Remove", func() error { return sn.Remove(ctx, key) })
	})
}

func readDigests() []string {
	if *digests == "" {
		return nil
	}
	file, err := os.Open(*digests)
	must(err)
	defer file.Close()
	var lines []string
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		lines = append(lines, scanner.Text())
	}
	return lines[*skip:]
}

func main() {
	flag.Parse()
	var err error
	sn, _, err = dial.Snapshotter(*address, "overlayfs")
	must(err)
	known := map[string]func(*times){
		"cycle": cycle, "stat": stat, "list": list, "fill": fill,
		"hit":  func(t *times) { remote(t, true) },
		"miss": func(t *times) { remote(t, false) },
	}
	for _, phase := range strings.Split(*phases, ",") {
		work, found := known[phase]
		if !found {
			log.Fatalf("phase %q: unknown; take some of cycle, stat, list, fill, hit, miss", phase)
		}
		t := &times{taken: map[string][]time.Duration{}}
		began := time.Now()
		work(t)
		t.print(phase, time.Since(began))
		// containerd calls it after its garbage collection; overlayfs removes no directory before.
		must(sn.(snapshots.Cleaner).Cleanup(ctx))
	}
}
