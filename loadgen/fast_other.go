//go:build !linux

package loadgen

import (
	"context"
	"errors"
)

const haveFast = false

type shard struct{}

// newShards is never called: Chosen refuses the fast engine.
func newShards(Config, *stream, *collector) ([]*shard, error) {
	return nil, errors.New("there is no fast engine here")
}

func runShards(context.Context, []*shard) {}

func closeShards([]*shard) {}
