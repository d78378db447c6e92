// Package peer pins the version of Toxiproxy whose own API tests our server is
// held against (run.sh). It is a module of its own: what those tests import is no
// dependency of chaosctl.
package peer

import _ "github.com/Shopify/toxiproxy/v2"
