-- sample.py, from the greeting to a new body. Whether a step is answered is not looked at: pymilter's
-- negotiation fails for a filter that asks for macros.
dofile(lib)
conn = connect()
check("add headers", mt.test_action(conn, SMFIF_ADDHDRS))
check("change headers", mt.test_action(conn, SMFIF_CHGHDRS))
check("change the body", mt.test_action(conn, SMFIF_CHGBODY))
must("connect", mt.conninfo(conn, "client.example.org", "192.0.2.1"))
must("helo", mt.helo(conn, "client.example.org"))
expect("helo", conn, SMFIR_CONTINUE)

play(conn, "envfrom", "envrcpt")
must("header", mt.header(conn, "Subject", "ADV: buy"))
expect("bad subject", conn, SMFIR_REPLYCODE)

-- A message that is a bad attachment.
play(conn, "envfrom", "envrcpt")
must("rcpt", mt.rcptto(conn, "<carol@example.net>"))
must("header", mt.header(conn, "Subject", "Lunch"))
must("header", mt.header(conn, "Content-Type", "application/octet-stream; name=\"plan.exe\""))
must("header", mt.header(conn, "Content-Disposition", "attachment"))
must("eoh", mt.eoh(conn))
must("body", mt.bodystring(conn, "12345\r\n"))
must("body", mt.bodystring(conn, "678\r\n"))
must("eom", mt.eom(conn))
expect("eom", conn, SMFIR_ACCEPT)
-- deleted(name): a header was, whatever the case that its name was given in.
function deleted(name)
    return mt.eom_check(conn, MT_HDRDELETE, name)
        or mt.eom_check(conn, MT_HDRDELETE, string.lower(name))
end
check("type deleted", deleted("Content-Type"))
check("disposition deleted", deleted("Content-Disposition"))
check("type added", mt.eom_check(conn, MT_HDRADD, "Content-Type"))
check("no other added", not mt.eom_check(conn, MT_HDRADD, "Subject"))
check("subject", not mt.eom_check(conn, MT_HDRCHANGE, "Subject"))
check("body", mt.eom_check(conn, MT_BODYCHANGE))

-- One with nothing to object to.
play(conn, "envfrom", "envrcpt")
must("header", mt.header(conn, "Subject", "Lunch"))
must("eoh", mt.eoh(conn))
must("body", mt.bodystring(conn, "Hello\r\n"))
must("eom", mt.eom(conn))
expect("eom", conn, SMFIR_ACCEPT)
check("body", not mt.eom_check(conn, MT_BODYCHANGE))
mt.disconnect(conn)
mt.echo("done")
