//go:build !linux

package main

import (
	"os"
	"syscall"
)

// supported says whether processes can be measured here: CPU time and memory are read from /proc, which only Linux has.
const supported = false

func dieWithParent() *syscall.SysProcAttr { return nil }

func datasync(f *os.File) error { return f.Sync() }
