//go:build !http3

package loadgen

import (
	"context"
	"errors"
)

// haveHTTP3 tells whether this binary speaks HTTP/3; docs/decisions says why not all do.
const haveHTTP3 = false

// openH3 is not called: checkH3 refuses such a stream before.
func openH3(context.Context, Config, *stream) (carrier, error) {
	return carrier{}, errors.ErrUnsupported
}
