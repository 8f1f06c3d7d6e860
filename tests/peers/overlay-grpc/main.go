// overlay-grpc serves containerd's own overlayfs snapshotter on a unix socket: what ours is measured against, and
// what shows that the suite in ../snaptest passes and fails where it should.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/overlay"
	"google.golang.org/grpc"
)

// mutant has one deliberate fault.
type mutant struct {
	snapshots.Snapshotter
	fault string
}

func (m mutant) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if m.fault == "view-rw" {
		return m.Snapshotter.Prepare(ctx, key, parent, opts...)
	}
	return m.Snapshotter.View(ctx, key, parent, opts...)
}

func (m mutant) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	if m.fault == "walk-nofilter" {
		filters = nil
	}
	return m.Snapshotter.Walk(ctx, fn, filters...)
}

func (m mutant) Remove(ctx context.Context, key string) error {
	err := m.Snapshotter.Remove(ctx, key)
	if m.fault == "remove-ok" {
		return nil
	}
	return err
}

func main() {
	fault := flag.String("mutant", "", "view-rw, walk-nofilter or remove-ok")
	address := flag.String("address", os.Getenv("ADDR"), "unix socket")
	root := flag.String("root", os.Getenv("ROOT"), "state directory")
	flag.Parse()
	// Asynchronous removal is what containerd itself configures: Remove deletes the record, Cleanup the directory.
	snapshotter, err := overlay.NewSnapshotter(*root, overlay.AsynchronousRemove)
	if err != nil {
		log.Fatal(err)
	}
	if *fault != "" {
		snapshotter = mutant{snapshotter, *fault}
	}
	os.Remove(*address)
	listener, err := net.Listen("unix", *address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Fatal(err)
		}
	}()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, os.Interrupt, syscall.SIGTERM)
	<-ended
	snapshotter.Close()
}
