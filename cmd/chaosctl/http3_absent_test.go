//go:build !http3

package main

import "github.com/rogpeppe/go-internal/testscript"

// http3Commands are none: scripts see it by their condition.
var http3Commands map[string]func()

func serveHTTP3(*testscript.Env) error { return nil }
