// Package snaptest runs containerd's own snapshotter test suite over a proxy snapshotter's socket.
//
// SNAPSHOTTER_CMD is a shell command that serves on $ADDR with its state in $ROOT; each test gets a server of its own.
// SNAPSHOTTER_USERNS=1 runs the servers in a user namespace of 65536 ids, those of the host.
package snaptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/testsuite"
	"peers/dial"
)

// With another name the suite tests renames that overlayfs does not have (it answers EXDEV).
const name = "overlayfs"

const (
	startTime = 60 * time.Second
	stopTime  = 15 * time.Second
)

type server struct {
	command *exec.Cmd
	output  bytes.Buffer
	ended   chan error
}

func start(command, root, address string) (*server, error) {
	s := &server{command: exec.Command("/bin/sh", "-c", "exec "+command), ended: make(chan error, 1)}
	s.command.Env = append(os.Environ(), "ROOT="+root, "ADDR="+address)
	s.command.Stdout, s.command.Stderr = &s.output, &s.output
	if os.Getenv("SNAPSHOTTER_USERNS") != "" {
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
		s.command.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:                 syscall.CLONE_NEWUSER,
			UidMappings:                ids,
			GidMappings:                ids,
			GidMappingsEnableSetgroups: true,
		}
	}
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	go func() { s.ended <- s.command.Wait() }()
	return s, s.waitFor(address)
}

func (s *server) waitFor(address string) error {
	for deadline := time.Now().Add(startTime); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if connection, err := net.Dial("unix", address); err == nil {
			return connection.Close()
		}
		select {
		case err := <-s.ended:
			return fmt.Errorf("the server ended before its socket came up: %v\n%s", err, s.output.String())
		default:
		}
	}
	s.command.Process.Kill()
	<-s.ended
	return fmt.Errorf("no socket within %s\n%s", startTime, s.output.String())
}

func (s *server) stop() error {
	select {
	case err := <-s.ended:
		return fmt.Errorf("the server had ended before it was told to: %v\n%s", err, s.output.String())
	default:
	}
	s.command.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.ended:
		if err != nil {
			return fmt.Errorf("the server ended badly: %v\n%s", err, s.output.String())
		}
		return nil
	case <-time.After(stopTime):
		s.command.Process.Kill()
		<-s.ended
		return errors.New("the server did not end within " + stopTime.String() + " of SIGTERM")
	}
}

func open(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	directory, err := os.MkdirTemp("", "sock-")
	if err != nil {
		return nil, nil, err
	}
	address := filepath.Join(directory, "s")
	s, err := start(os.Getenv("SNAPSHOTTER_CMD"), root, address)
	if err != nil {
		return nil, nil, err
	}
	snapshotter, hangUp, err := dial.Snapshotter(address, name)
	if err != nil {
		return nil, nil, err
	}
	return snapshotter, func() error {
		hangUp()
		defer os.RemoveAll(directory)
		return s.stop()
	}, nil
}

func TestSuite(t *testing.T) {
	testsuite.SnapshotterSuite(t, name, open)
}
