"""What sets up, runs and watches an installation; a package only so that the code in it can be imported and checked."""
