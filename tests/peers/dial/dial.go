// Package dial connects to a snapshotter's unix socket.
package dial

import (
	"context"
	"net"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"google.golang.org/grpc"
)

// Snapshotter is what containerd itself makes of a proxy plugin's socket; the function closes the connection.
func Snapshotter(address, name string) (snapshots.Snapshotter, func() error, error) {
	connection, err := grpc.Dial("passthrough:///"+address,
		grpc.WithInsecure(),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", target)
		}))
	if err != nil {
		return nil, nil, err
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), name), connection.Close, nil
}
