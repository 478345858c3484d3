"""The filter that ``demo`` shows where none is given; a class as any user's."""

from __future__ import annotations

from typing import Optional

import Milter


class Demo(Milter.Base):
    """Marks mail as checked, and refuses what shouts."""

    def envfrom(self, sender: str, *params: str) -> int:
        """A new message: nothing is known of its subject yet."""
        self.subject: Optional[str] = None
        return Milter.CONTINUE

    def header(self, field: str, value: str) -> int:
        """Looks at the subject."""
        if field.lower() == "subject":
            self.subject = value
            if "!!!" in value:
                self.setreply("550", "5.7.1", "Please do not shout")
                return Milter.REJECT
        return Milter.CONTINUE

    def eom(self) -> int:
        """Leaves its marks."""
        if self.subject is not None:
            self.chgheader("Subject", 1, f"[checked] {self.subject}")
        self.addheader("X-Demo", "seen by the filter of milterctl demo")
        return Milter.CONTINUE
