// Command chaosctl answers whether a system keeps its promise while something goes wrong.
package main

import (
 _ "github.com/spf13/cobra"
 _ "github.com/tsenart/vegeta/v12/lib"
 _ "github.com/vbauerster/mpb/v8"
 _ "github.com/goccy/go-yaml"
 _ "github.com/invopop/jsonschema"
 _ "github.com/HdrHistogram/hdrhistogram-go"
 _ "modernc.org/sqlite"
 _ "github.com/prometheus/client_golang/prometheus/promhttp"
 _ "github.com/sony/gobreaker/v2"
 _ "github.com/failsafe-go/failsafe-go"
 _ "gonum.org/v1/gonum/stat/distuv"
 _ "github.com/rogpeppe/go-internal/testscript"
 _ "github.com/google/go-cmp/cmp"
 _ "pgregory.net/rapid"
 _ "go.uber.org/goleak"
 _ "github.com/santhosh-tekuri/jsonschema/v6"
 _ "github.com/shopspring/decimal"
 _ "golang.org/x/term"
 _ "github.com/google/uuid"
 _ "golang.org/x/sys/unix"
 _ "golang.org/x/net/http2"
)

func main() {}
