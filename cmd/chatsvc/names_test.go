package main

import (
	"encoding"
	"strings"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		into       encoding.TextUnmarshaler
		text, want string // want is empty for what is refused
	}{
		{new(teamName), "checkout", "teams/checkout"},
		{new(teamName), "teams/checkout", "teams/checkout"},
		{new(teamName), "teams", "teams/teams"},
		{new(teamName), "checkout/web", ""},
		{new(teamName), "", ""},
		{new(teamName), "Checkout", ""},
		{new(teamName), "-x", ""},
		{new(teamName), "teams/", ""},
		{new(teamName), strings.Repeat("x", 63), "teams/" + strings.Repeat("x", 63)},
		{new(teamName), strings.Repeat("x", 64), ""},
		{new(clientName), "checkout/web.1", "teams/checkout/clients/web.1"},
		{new(clientName), "teams/checkout/clients/web", "teams/checkout/clients/web"},
		{new(clientName), "teams/checkout/keys/web", ""},
		{new(clientName), "teams/checkout", "teams/teams/clients/checkout"},
		{new(clientName), "checkout", ""},
		{new(keyName), "checkout/web/abc", "teams/checkout/clients/web/keys/abc"},
		{new(keyName), "teams/checkout/clients/web/keys/abc", "teams/checkout/clients/web/keys/abc"},
		{new(keyName), "teams/checkout/clients/web", ""},
		{new(keyName), "csk_" + strings.Repeat("a", 16) + "_" + strings.Repeat("b", 52), ""},
		{new(parentName), "checkout", "teams/checkout"},
		{new(parentName), "teams/checkout", "teams/checkout"},
		{new(parentName), "checkout/web", "teams/checkout/clients/web"},
		{new(parentName), "teams/checkout/clients/web", "teams/checkout/clients/web"},
		{new(parentName), "checkout/web/abc", ""},
	} {
		err := tt.into.UnmarshalText([]byte(tt.text))
		var got string
		switch n := tt.into.(type) {
		case *teamName:
			got = string(*n)
		case *clientName:
			got = string(*n)
		case *keyName:
			got = string(*n)
		case *parentName:
			got = string(*n)
		}
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%T of %q = %q, %v; want %q", tt.into, tt.text, got, err, tt.want)
		}
		if err != nil && len(tt.text) > 30 && strings.Contains(err.Error(), tt.text) {
			t.Errorf("%v repeats what may be a key", err)
		}
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"60d": 60 * day, "1d12h": 36 * time.Hour, "90m": 90 * time.Minute, "0": 0, "0s": 0, "0d": 0,
		"": -1, "d": -1, "-1h": -1, "1d-1h": -1, "60": -1, "1.5d": -1, "+1d": -1, "70000d": -1, "65535d2000000h": -1, "1h1d": -1,
	} {
		got := span(-1)
		err := got.UnmarshalText([]byte(text))
		if time.Duration(got) != want || (err == nil) != (want >= 0) {
			t.Errorf("%q = %v, %v; want %v", text, time.Duration(got), err, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 90 * time.Minute: "1h30m", day: "24h", time.Hour + time.Second: "1h0m1s", 10 * time.Minute: "10m", 20 * time.Second: "20s",
	} {
		if got := span(d).String(); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
	}
}
