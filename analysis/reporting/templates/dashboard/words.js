// Numbers with their intervals as text, as analysis/reporting/text.py writes them.
headlab.words = (() => {
  const known = x => x !== null && x !== undefined && Number.isFinite(x);
  const fixed = (x, digits) => {
    const text = Math.abs(x) < 0.5 * 10 ** -digits ? (0).toFixed(digits) : x.toFixed(digits);
    return text.replace("-", "−");
  };
  const UNITS = {
    count: {scale: 1, digits: 0, join: "–"}, percent: {scale: 100, digits: 1, join: ", "},
    number: {scale: 1, digits: 2, join: ", "},
  };
  const unit = name => UNITS[name] ?? UNITS.number;
  const value = (x, kind) => (known(x) ? fixed(x * unit(kind).scale, unit(kind).digits) : "–");
  const interval = (low, high, kind) => {
    if (!known(low) || !known(high)) return "";
    return `[${value(low, kind)}${unit(kind).join}${value(high, kind)}]`;
  };
  const signed = (x, kind) => {
    if (!known(x)) return "";
    const text = value(x, kind);
    return x > 0 && /[1-9]/.test(text) ? `+${text}` : text;
  };
  // Of small amounts: three significant digits.
  const small = x => (known(x) ? String(Number(x.toPrecision(3))).replace("-", "−") : "–");
  return {known, fixed, value, interval, signed, small};
})();
