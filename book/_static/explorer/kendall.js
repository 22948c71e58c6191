// Kendall's tau_b of runs compared within groups, as flatlib.claims.concordance computes it: pairs are counted in each group,
// and the groups' taus are averaged by their number of untied pairs, sqrt(A B). One group gives Kendall's tau_b itself.
window.flatlibExplorer = window.flatlibExplorer || {};

// groups: arrays of [x, y]. tau is null where no pair is untied in both.
flatlibExplorer.concordance = (groups) => {
  const found = { tau: null, runs: 0, groups: 0, pairs: 0 };
  let score = 0;
  let weight = 0;
  for (const points of groups) {
    const { balance, ordered, untiedX, untiedY } = flatlibExplorer.pairs(points);
    if (!untiedX || !untiedY) continue;
    score += balance;
    weight += Math.sqrt(untiedX * untiedY);
    found.runs += points.length;
    found.groups += 1;
    found.pairs += ordered;
  }
  if (weight) found.tau = score / weight;
  return found;
};

// Every pair, one by one: half a million for a thousand runs, which takes milliseconds.
flatlibExplorer.pairs = (points) => {
  let balance = 0; // concordant less discordant
  let ordered = 0;
  let untiedX = 0;
  let untiedY = 0;
  for (let i = 1; i < points.length; i += 1) {
    for (let j = 0; j < i; j += 1) {
      const x = Math.sign(points[i][0] - points[j][0]);
      const y = Math.sign(points[i][1] - points[j][1]);
      balance += x * y;
      ordered += x * x * y * y;
      untiedX += x * x;
      untiedY += y * y;
    }
  }
  return { balance, ordered, untiedX, untiedY };
};
