"""Personal data in text: find it (`detect`), replace it (`replace`), show it masked (`masking`).

Pure functions over text, no stage. Words: `kinds`; detectors: `network`, `phones`, `numeric`, `identity`,
`addresses`, `credentials`, `wallets`, and `tables` for what a column's head names; speed: `gates`; names by a
model: `recognise`.
"""
