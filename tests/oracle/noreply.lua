-- A filter that answers no step but the end of the message.
dofile(lib)
conn = connect()
for _, bit in ipairs({SMFIP_NR_CONN, SMFIP_NR_HELO, SMFIP_NR_MAIL, SMFIP_NR_RCPT, SMFIP_NR_DATA,
                      SMFIP_NR_HDR, SMFIP_NR_EOH, SMFIP_NR_BODY}) do
    check("bit " .. bit, mt.test_option(conn, bit))
end
for _, step in ipairs(steps) do
    must(step[1], step[2](conn))
end
expect("eom", conn, SMFIR_CONTINUE)
mt.disconnect(conn)
mt.echo("done")
