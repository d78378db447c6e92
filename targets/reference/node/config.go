package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/chaosctl/chaosctl/targets/pattern"
)

// Config is what one instance of a reference service is told, as a JSON file.
type Config struct {
	Service  string          `json:"service"`
	Instance int             `json:"instance"`
	Role     string          `json:"role"`
	Listen   string          `json:"listen"` // host:port; default 127.0.0.1:0
	Data     string          `json:"data"`   // folder for its database
	Seed     uint64          `json:"seed"`
	Edges    map[string]Edge `json:"edges"`             // by callee
	Sagas    pattern.Sagas   `json:"sagas,omitempty"`   // where a service that runs sagas keeps them; default durable
	Scale    float64         `json:"scale"`             // of the service's own timers; default 1. Edge settings are scaled already
	Control  string          `json:"control,omitempty"` // token of /admin/faults; "" = there is no such page
	Faults   Faults          `json:"faults"`            // to begin with
	Parent   int             `json:"parent,omitempty"`  // pid that must still be the parent once it is our lifeline; 0 = not checked
}

// Edge is where a callee is reached, and what is done about its failures.
type Edge struct {
	Address  string           `json:"address"` // host:port
	Settings pattern.Settings `json:"settings"`
}

// Load reads a Config and fills in its defaults.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read the service's configuration: %w", err)
	}
	var c Config
	if err := json.Unmarshal(text, &c); err != nil {
		return Config{}, fmt.Errorf("read the service's configuration %s: %w", path, err)
	}
	if err := c.complete(); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

func (c *Config) complete() error {
	if c.Service == "" {
		return errors.New(`"service" is missing: the name of the service`)
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Scale < 0 {
		return fmt.Errorf(`"scale" is %v: it must be above zero`, c.Scale)
	}
	if c.Scale == 0 {
		c.Scale = 1
	}
	for callee, e := range c.Edges {
		if e.Address == "" {
			return fmt.Errorf("edge %q has no address", c.Service+" -> "+callee)
		}
	}
	return nil
}

// Database is the file of the service's own database.
func (c Config) Database() string { return filepath.Join(c.Data, c.Service+".db") }
