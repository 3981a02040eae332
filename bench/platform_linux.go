package main

import (
	"os"
	"syscall"
)

// supported says whether processes can be measured here.
const supported = true

// dieWithParent makes the kernel kill a process whose parent ends without having stopped it. To the kernel the parent is
// the thread that started it; Go ends no thread that no goroutine has locked.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// datasync waits until what was written to f is on the disk, the way SQLite does.
func datasync(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return err
		}
	}
}
