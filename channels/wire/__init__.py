"""Pure codecs: SMPP PDUs, GSM 03.38, MIME, TwiML. No I/O, no clock; judged by independent peers."""
