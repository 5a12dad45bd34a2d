"""The user study of Section 5.5: designed from runs, collected in a browser, aggregated into Table 3."""
