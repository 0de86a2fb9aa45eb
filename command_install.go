package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// InstallCommand gives another image postern's commands: through a volume that both
// containers have.
type InstallCommand struct {
	Dir string `arg:"" name:"dir" placeholder:"DIR" help:"A directory that is there already, such as a volume's. What is called postern in it is replaced."`
}

// Help says what for and gives an example.
func (InstallCommand) Help() string {
	return "Copies this program to DIR/postern, for everybody to run, and prints that path. An init container with postern's image and an emptyDir bring " +
		"postern wait and postern quit to an image that has neither them nor a shell.\n\n" + example("postern install /shared")
}

// Run copies, and gives the copy its name when it is whole.
func (c *InstallCommand) Run(_ context.Context, e *environment) error {
	path, err := install(c.Dir)
	if err != nil {
		return cannot("install postern", err, next{other: "mount a volume there that this user can write to"})
	}
	_, err = fmt.Fprintln(e.Stdout, path)
	return err
}

func install(dir string) (path string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	from, err := os.Open(self)
	if err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	defer from.Close()
	to, err := os.CreateTemp(dir, ".postern-new-*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(to.Name()))
		}
	}()
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Chmod(0o755), to.Close()); err != nil {
		return "", err
	}
	path = filepath.Join(dir, "postern")
	// Not written in place: whoever runs the one of before goes on with it.
	return path, os.Rename(to.Name(), path)
}
